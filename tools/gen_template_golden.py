"""Has Go's own text/template execute a table of templates, for the tests of ours.

    tools/gen_template_golden.py    # needs Go; reads and rewrites tests/wire/data/gotemplate.json

Each case has a ``template``, and ``data`` where it does not use those that all share; what Go makes
of it is written beside as ``output`` or ``error``. Whole numbers in the data are Go's int.
"""

import json
import subprocess
import tempfile
from pathlib import Path

TABLE = Path(__file__).parents[1] / "tests" / "wire" / "data" / "gotemplate.json"

PROGRAM = r"""
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strconv"
	"text/template"
)

type testCase struct {
	Template string `json:"template"`
	Data     any    `json:"data"`
	Missing  string `json:"missingkey"`
}

func plain(v any) any {
	switch t := v.(type) {
	case json.Number:
		if n, err := strconv.Atoi(t.String()); err == nil {
			return n
		}
		f, _ := t.Float64()
		return f
	case []any:
		for i := range t {
			t[i] = plain(t[i])
		}
	case map[string]any:
		for k := range t {
			t[k] = plain(t[k])
		}
	}
	return v
}

func run(c testCase) (result map[string]string) {
	missing := c.Missing
	if missing == "" {
		missing = "default"
	}
	t, err := template.New("t").Option("missingkey=" + missing).Parse(c.Template)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	var out bytes.Buffer
	if err := t.Execute(&out, plain(c.Data)); err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]string{"output": out.String()}
}

func main() {
	var cases []testCase
	decoder := json.NewDecoder(os.Stdin)
	decoder.UseNumber()
	if err := decoder.Decode(&cases); err != nil {
		panic(err)
	}
	results := []map[string]string{}
	for _, c := range cases {
		results = append(results, run(c))
	}
	json.NewEncoder(os.Stdout).Encode(results)
}
"""


def main() -> None:
    table = json.loads(TABLE.read_text())
    cases = table["cases"]
    for case in cases:
        case.pop("output", None)
        case.pop("error", None)
    given = [{"data": table["data"], **case} for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "main.go"
        program.write_text(PROGRAM)
        out = subprocess.run(
            ["go", "run", str(program)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    for case, result in zip(cases, json.loads(out), strict=True):
        case.update(result)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    shared = json.dumps(table["data"], ensure_ascii=False)
    TABLE.write_text(f'{{"data": {shared},\n"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
