#!/bin/sh
# A DecoratorController's hook in shell: a ConfigMap for each object, and a label on the object.
body=$(head -c "$CONTENT_LENGTH")
header=${body#*\"object\":}
header=${header#*\"metadata\":}
name=${header#*\"name\":\"}
name=${name%%\"*}
printf 'Content-Type: application/json\r\n\r\n'
case $body in
*'"finalizing":true'*)
    case $body in
    *'"ConfigMap.v1":{}'*) finalized=true ;;
    *) finalized=false ;;
    esac
    printf '{"labels": {"noted": null}, "attachments": [], "finalized": %s}' $finalized
    ;;
*)
    cat <<ANSWER
{"labels": {"noted": "yes"},
 "attachments": [{"apiVersion": "v1", "kind": "ConfigMap",
                  "metadata": {"name": "note-$name"}, "data": {"by": "sh"}}]}
ANSWER
    ;;
esac
