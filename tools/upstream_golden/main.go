// Command upstreamgolden runs patches and applies through Kubernetes' own libraries.
//
// It reads one JSON request a line and answers each with one line. A request is either a
// strategic merge patch of a Deployment (original, patch) or a sequence of writes to one
// (steps). The argument is an OpenAPI v3 document that describes apps/v1.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/managedfields/managedfieldstest"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

type step struct {
	Op      string         `json:"op"`
	Manager string         `json:"manager"`
	Force   bool           `json:"force"`
	Obj     map[string]any `json:"obj"`
}

type request struct {
	Original json.RawMessage `json:"original"`
	Patch    json.RawMessage `json:"patch"`
	Steps    []step          `json:"steps"`
}

type outcome struct {
	Error  string `json:"error,omitempty"`
	Object any    `json:"object,omitempty"`
}

func patched(r request) outcome {
	result, err := strategicpatch.StrategicMergePatch(r.Original, r.Patch, appsv1.Deployment{})
	if err != nil {
		return outcome{Error: err.Error()}
	}
	return outcome{Object: json.RawMessage(result)}
}

func written(types managedfields.TypeConverter, steps []step) []outcome {
	manager := managedfieldstest.NewTestFieldManager(
		types, appsv1.SchemeGroupVersion.WithKind("Deployment"))
	var outcomes []outcome
	for _, s := range steps {
		obj := &unstructured.Unstructured{Object: s.Obj}
		var err error
		if s.Op == "apply" {
			err = manager.Apply(obj, s.Manager, s.Force)
		} else {
			err = manager.Update(obj, s.Manager)
		}
		live, encodeErr := json.Marshal(manager.Live())
		if encodeErr != nil {
			log.Fatal(encodeErr)
		}
		found := outcome{Object: json.RawMessage(live)}
		if err != nil {
			found.Error = err.Error()
		}
		outcomes = append(outcomes, found)
	}
	return outcomes
}

func main() {
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		log.Fatal(err)
	}
	types, err := managedfields.NewTypeConverter(doc.Components.Schemas, false)
	if err != nil {
		log.Fatal(err)
	}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	for in.More() {
		var r request
		if err := in.Decode(&r); err != nil {
			log.Fatal(err)
		}
		var answer any
		if r.Steps == nil {
			answer = patched(r)
		} else {
			answer = written(types, r.Steps)
		}
		if err := out.Encode(answer); err != nil {
			log.Fatal(err)
		}
	}
}
