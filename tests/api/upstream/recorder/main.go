// Answers, for each JSON line on its input, what Kubernetes makes of an object: its defaults, its
// field errors, its row of a table.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsval "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchval "k8s.io/kubernetes/pkg/apis/batch/validation"
	core "k8s.io/kubernetes/pkg/apis/core"
	coreval "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	netval "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/rbac"
	rbacval "k8s.io/kubernetes/pkg/apis/rbac/validation"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"

	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
)

func validate(obj runtime.Object) field.ErrorList {
	switch x := obj.(type) {
	case *core.Pod:
		return coreval.ValidatePodCreate(x, coreval.PodValidationOptions{})
	case *core.Service:
		return coreval.ValidateServiceCreate(x)
	case *core.ConfigMap:
		return coreval.ValidateConfigMap(x)
	case *core.Secret:
		return coreval.ValidateSecret(x)
	case *apps.Deployment:
		return appsval.ValidateDeployment(x, coreval.PodValidationOptions{})
	case *apps.ReplicaSet:
		return appsval.ValidateReplicaSet(x, coreval.PodValidationOptions{})
	case *apps.StatefulSet:
		return appsval.ValidateStatefulSet(x, coreval.PodValidationOptions{})
	case *apps.DaemonSet:
		return appsval.ValidateDaemonSet(x, coreval.PodValidationOptions{})
	case *batch.Job:
		return batchval.ValidateJob(x, batchval.JobValidationOptions{})
	case *batch.CronJob:
		return batchval.ValidateCronJobCreate(x, coreval.PodValidationOptions{})
	case *networking.Ingress:
		return netval.ValidateIngressCreate(x)
	case *rbac.Role:
		return rbacval.ValidateRole(x)
	case *rbac.RoleBinding:
		return rbacval.ValidateRoleBinding(x)
	case *rbac.ClusterRole:
		return rbacval.ValidateClusterRole(x, rbacval.ClusterRoleValidationOptions{})
	}
	return nil
}

func main() {
	sc := bufio.NewScanner(os.Stdin)
	sc.Buffer(make([]byte, 1<<22), 1<<22)
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	gen := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	for sc.Scan() {
		var in struct {
			Op     string
			Object json.RawMessage
			Old    json.RawMessage
		}
		if err := json.Unmarshal(sc.Bytes(), &in); err != nil {
			panic(err)
		}
		enc.Encode(run(gen, in.Op, in.Object, in.Old))
	}
}

func run(gen *printers.HumanReadableGenerator, op string, data, oldData []byte) (out any) {
	defer func() {
		if r := recover(); r != nil {
			out = map[string]any{"panic": fmt.Sprint(r)}
		}
	}()
	decoder := legacyscheme.Codecs.UniversalDecoder()
	if op == "default" {
		_, gvk, err := legacyscheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
		if err != nil {
			return map[string]any{"error": err.Error()}
		}
		internal, err := runtime.Decode(decoder, data)
		if err != nil {
			return map[string]any{"error": err.Error()}
		}
		b, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(gvk.GroupVersion()), internal)
		if err != nil {
			return map[string]any{"error": err.Error()}
		}
		return json.RawMessage(b)
	}
	internal, err := runtime.Decode(decoder, data)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	switch op {
	case "validate":
		found := []map[string]string{}
		for _, e := range validate(internal) {
			found = append(found, map[string]string{"field": e.Field, "message": e.ErrorBody(), "reason": string(e.Type)})
		}
		return found
	case "podupdate":
		old, err := runtime.Decode(decoder, oldData)
		if err != nil {
			return map[string]any{"error": err.Error()}
		}
		found := []map[string]string{}
		for _, e := range coreval.ValidatePodUpdate(internal.(*core.Pod), old.(*core.Pod), coreval.PodValidationOptions{}) {
			found = append(found, map[string]string{"field": e.Field, "message": e.ErrorBody()})
		}
		return found
	case "table":
		t, err := gen.GenerateTable(internal, printers.GenerateOptions{Wide: true})
		if err != nil {
			return map[string]any{"error": err.Error()}
		}
		cols := []string{}
		for _, c := range t.ColumnDefinitions {
			cols = append(cols, fmt.Sprintf("%s/%s/%d", c.Name, c.Type, c.Priority))
		}
		rows := [][]any{}
		for _, r := range t.Rows {
			rows = append(rows, r.Cells)
		}
		return map[string]any{"columns": cols, "rows": rows}
	}
	return nil
}
