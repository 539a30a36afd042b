"""kubectl certificate approve makes of a request a certificate that works."""

from base64 import b64decode, b64encode

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.server.cluster import Cluster

from underway.api.resources import CERTIFICATESIGNINGREQUESTS as REQUESTS
from underway.base.errors import Forbidden, Invalid
from underway.client import Client

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def asked(common_name, organization="", names=()):
    """A new key and a PKCS #10 request for it, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        dns = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(dns, critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signing_request(name, pem, signer="kube-apiserver-client", usages=("client auth",), **spec):
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": b64encode(pem).decode(),
            "signerName": f"kubernetes.io/{signer}",
            "usages": list(usages),
            **spec,
        },
    }


def settled(cluster, name):
    """The request once it was signed or refused."""

    async def watched():
        found = await cluster.admin.get(REQUESTS, name)
        version = found["metadata"]["resourceVersion"]
        fields = f"metadata.name={name}"
        if done(found):
            return found
        async for event in cluster.admin.watch(REQUESTS, resource_version=version, fields=fields):
            if done(event.object):
                return event.object
        raise AssertionError("the watch ended")

    def done(found):
        status = found.get("status") or {}
        kinds = [c["type"] for c in status.get("conditions") or ()]
        return status.get("certificate") or "Failed" in kinds

    return cluster.call(watched())


def test_an_approved_request_becomes_a_client_certificate_that_works(cluster):
    key, pem = asked("jane", "developers")
    made = signing_request("jane", pem, expirationSeconds=7200)
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(made))
    listed = cluster.kubectl("get", "csr", "jane")
    assert "kubernetes.io/kube-apiserver-client" in listed
    assert "Pending" in listed
    assert "kubernetes-admin" in listed
    cluster.kubectl("certificate", "approve", "jane")
    certificate = b64decode(settled(cluster, "jane")["status"]["certificate"])
    assert "Approved,Issued" in cluster.kubectl("get", "csr", "jane")
    parsed = x509.load_pem_x509_certificate(certificate)
    life = parsed.not_valid_after_utc - parsed.not_valid_before_utc
    assert life.total_seconds() == 7200 + 300
    (cluster.home.pki / "jane.crt").write_bytes(certificate)
    (cluster.home.pki / "jane.key").write_bytes(key)
    config = cluster.kubeconfig("jane")
    who = cluster.kubectl("auth", "whoami", "-o", "yaml", config=config)
    user = yaml.safe_load(who)["status"]["userInfo"]
    assert user["username"] == "jane"
    assert "developers" in user["groups"]


def test_a_denied_request_stays_without_a_certificate(cluster):
    _, pem = asked("joe")
    cluster.call(cluster.admin.create(REQUESTS, signing_request("joe", pem)))
    cluster.kubectl("certificate", "deny", "joe")
    found = cluster.call(cluster.admin.get(REQUESTS, "joe"))
    assert [c["type"] for c in found["status"]["conditions"]] == ["Denied"]
    again = cluster.kubectl("certificate", "approve", "joe", check=False)
    assert again.returncode != 0
    assert "certificate" not in cluster.call(cluster.admin.get(REQUESTS, "joe"))["status"]


@pytest.mark.parametrize(
    ("signer", "usages", "subject", "names", "reason"),
    [
        ("kube-apiserver-client", ("server auth",), ("a",), (), 'must include "client auth"'),
        ("kube-apiserver-client-kubelet", ("client auth",), ("a",), (), "organization"),
        ("kubelet-serving", ("server auth",), ("system:node:n", "system:nodes"), (), "DNS name"),
    ],
)
def test_a_signer_says_why_it_does_not_sign(cluster, signer, usages, subject, names, reason):
    _, pem = asked(*subject, names=names)
    name = f"bad-{signer}"
    made = signing_request(name, pem, signer, usages)
    cluster.call(cluster.admin.create(REQUESTS, made))
    cluster.kubectl("certificate", "approve", name)
    status = settled(cluster, name)["status"]
    (failed,) = (c for c in status["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "SignerValidationFailure"
    assert reason in failed["message"]
    assert "certificate" not in status


def test_a_kubelet_gets_its_serving_certificate(cluster):
    _, pem = asked("system:node:n", "system:nodes", names=("n.example",))
    usages = ("digital signature", "server auth")
    made = signing_request("kubelet", pem, "kubelet-serving", usages)
    cluster.call(cluster.admin.create(REQUESTS, made))
    cluster.kubectl("certificate", "approve", "kubelet")
    text = b64decode(settled(cluster, "kubelet")["status"]["certificate"])
    parsed = x509.load_pem_x509_certificate(text)
    found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["n.example"]


def test_only_who_may_approve_for_the_signer_does(cluster):
    _, pem = asked("eve")
    cluster.call(cluster.admin.create(REQUESTS, signing_request("eve", pem)))
    requests = "certificatesigningrequests.certificates.k8s.io"
    resources = f"--resource={requests},{requests}/approval"
    cluster.kubectl("create", "clusterrole", "approver", "--verb=get,update", resources)
    cluster.kubectl("create", "clusterrolebinding", "eve", "--clusterrole=approver", "--user=eve")
    refused = cluster.kubectl("certificate", "approve", "eve", "--as=eve", check=False)
    text = 'user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver'
    assert text in refused.stderr


def test_what_asks_nothing_proper_is_refused_at_once(cluster):
    _, pem = asked("root", "system:masters")
    with pytest.raises(Forbidden, match="system:masters"):
        cluster.call(cluster.admin.create(REQUESTS, signing_request("root", pem)))
    with pytest.raises(Invalid, match=r"spec\.request"):
        cluster.call(cluster.admin.create(REQUESTS, signing_request("root", b"no PEM")))
    made = signing_request("short", asked("a")[1], expirationSeconds=5)
    with pytest.raises(Invalid, match="600 seconds"):
        cluster.call(cluster.admin.create(REQUESTS, made))


def test_the_request_says_who_made_it_whatever_it_claims(cluster):
    client = Client(cluster.api.as_user("ann", ["system:masters"]))
    made = signing_request("ann", asked("ann")[1], username="somebody", groups=["kings"])
    found = cluster.call(client.create(REQUESTS, made))
    assert found["spec"]["username"] == "ann"
    assert "kings" not in found["spec"]["groups"]


def test_a_bootstrapping_kubelet_gets_its_client_certificate_by_itself(cluster):
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
        },
    }
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(secret))
    for role in (
        "system:node-bootstrapper",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
    ):
        name = f"bootstrap-{role.rpartition(':')[2]}"
        group = "--group=system:bootstrappers"
        cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={role}", group)
    _, pem = asked("system:node:n7", "system:nodes")
    usages = ("digital signature", "client auth")
    made = signing_request("node-n7", pem, "kube-apiserver-client-kubelet", usages)
    config = cluster.kubeconfig(token="abcdef.0123456789abcdef")
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(made), config=config)
    found = settled(cluster, "node-n7")
    assert found["spec"]["username"] == "system:bootstrap:abcdef"
    (approved,) = found["status"]["conditions"]
    assert (approved["type"], approved["reason"]) == ("Approved", "AutoApproved")
    text = b64decode(found["status"]["certificate"])
    subject = x509.load_pem_x509_certificate(text).subject
    (name,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "system:node:n7"


def test_requests_that_are_not_quite_a_kubelets_wait_for_a_human(cluster):
    _, pem = asked("system:node:n8", "system:nodes", names=("n8.example",))
    made = signing_request("node-n8", pem, "kube-apiserver-client-kubelet")
    cluster.call(cluster.admin.create(REQUESTS, made))
    # One that is approved, and made later, shows that the first one was looked at.
    _, pem = asked("system:node:n9", "system:nodes")
    later = signing_request("node-n9", pem, "kube-apiserver-client-kubelet")
    cluster.call(cluster.admin.create(REQUESTS, later))
    settled(cluster, "node-n9")
    found = cluster.call(cluster.admin.get(REQUESTS, "node-n8"))
    assert not (found.get("status") or {}).get("conditions")
