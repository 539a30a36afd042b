"""The system calls that RUN steps may not make.

What reaches beyond a container's namespaces is refused; everything else is allowed, so that new
system calls work as they do on the machine. Sources: Docker's documentation, "Seccomp security
profiles" (significant system calls blocked by the default profile); runtime-spec
``config-linux.md`` (Seccomp); clone(2).
"""

from __future__ import annotations

from typing import Any

EPERM, ENOSYS = 1, 38

REFUSED = (
    # the kernel itself
    "acct", "bpf", "create_module", "delete_module", "finit_module", "get_kernel_syms",
    "init_module", "kexec_file_load", "kexec_load", "lookup_dcookie", "nfsservctl",
    "perf_event_open", "query_module", "quotactl", "quotactl_fd", "reboot", "swapoff", "swapon",
    "syslog", "uselib", "userfaultfd", "ustat", "sysfs", "_sysctl", "vhangup", "vm86", "vm86old",
    "iopl", "ioperm", "io_uring_setup", "io_uring_enter", "io_uring_register",
    # its keys, which no namespace parts
    "add_key", "keyctl", "request_key",
    # the machine's clock
    "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64",
    "settimeofday", "stime",
    # mounts and namespaces
    "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
    "open_by_handle_at", "open_tree", "pivot_root", "setns", "umount", "umount2", "unshare",
    # other processes and where memory lies
    "kcmp", "get_mempolicy", "mbind", "migrate_pages", "move_pages", "process_vm_readv",
    "process_vm_writev", "set_mempolicy", "set_mempolicy_home_node",
)  # fmt: skip
_NAMESPACE_FLAGS = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_ARCHITECTURES = {
    "amd64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "arm64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
}


def profile(architecture: str) -> dict[str, Any]:
    """The filter as the runtime's ``linux.seccomp``; ``architecture`` is the machine's."""
    new_namespaces = [
        _rule(
            "clone",
            args=[{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
        )
        for flag in _NAMESPACE_FLAGS
    ]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": _ARCHITECTURES.get(architecture, []),
        "syscalls": [
            _rule(*REFUSED, code=EPERM),
            # Its flags lie in memory, where no filter sees them; C libraries fall back to clone.
            _rule("clone3", code=ENOSYS),
            *new_namespaces,
        ],
    }


def _rule(*names: str, code: int = EPERM, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": code, **more}
