"""A webhook's matchConditions: expressions in CEL that must all hold for it to be asked.

Source: Kubernetes "Dynamic Admission Control", matchConditions; apiserver
``pkg/admission/plugin/webhook/matchconditions``.
"""

from __future__ import annotations

from underway.api.cel import EvaluationError, compile_expression
from underway.api.cel.authorizer import authorizer_of
from underway.api.kinds.registration import CONDITION_VARIABLES
from underway.api.objects import Object
from underway.base.errors import Forbidden
from underway.server.admission.hooks import Hook
from underway.server.admission.policy import asked
from underway.server.admission.write import Write
from underway.server.call import refused


def hold(hook: Hook, request: Object, write: Write) -> bool:
    """Whether a webhook is to be asked about an AdmissionRequest.

    One condition that does not hold is enough, even where another has no value.

    Raises:
        Forbidden: a condition has no value, and the webhook's failurePolicy is Fail.
    """
    conditions = hook.spec.get("matchConditions") or ()
    if not conditions:
        return True
    values = {
        "object": request["object"],
        "oldObject": request["oldObject"],
        "authorizer": authorizer_of(write.user.info(), asked(write)),
        "request": {k: v for k, v in request.items() if k not in ("object", "oldObject", "uid")},
    }
    undecided = ""
    for condition in conditions:
        program = compile_expression(condition.get("expression") or "", CONDITION_VARIABLES)
        try:
            if program.evaluate(values) is not True:
                return False
        except EvaluationError as error:
            undecided = undecided or f"{condition.get('name')}: {error.message}"
    if undecided and not hook.fails_open:
        why = f'match condition of admission webhook "{hook.name}" failed: {undecided}'
        raise refused(Forbidden, write.served, write.name, why)
    return not undecided
