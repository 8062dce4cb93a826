//! What a pod's containers are given as environment, by the pod's spec: values that stand there, and references to
//! ConfigMaps, Secrets and fields, which stay references. Pure.
//!
//! Must stay true: the value of a Secret is never here: it is in the backup of that Secret, or in none.

use serde_json::Value;

use super::variables::Lines;
use crate::kubernetes::text_at;

/// A file for each container, by its name, in the order of the files.
pub(super) fn files(pod: &Value) -> Vec<(String, Vec<u8>)> {
    let of = |list: &str| pod.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let containers = of("/spec/initContainers").into_iter().chain(of("/spec/containers"));
    let file = |container: Value| (format!("{}.env", text_at(&container, "/name")), lines(pod, &container));
    let mut files: Vec<_> = containers.map(file).collect();
    files.sort();
    files
}

fn lines(pod: &Value, container: &Value) -> Vec<u8> {
    let (name, of) = (text_at(container, "/name"), text_at(pod, "/metadata/name"));
    let mut lines = Lines::new(&[
        &format!("What the container {name} of the pod {of} is given, by the pod's spec."),
        "Nothing puts it back by itself: what makes the pod (a Deployment, a chart) has it in its template. Values of",
        "ConfigMaps and Secrets are with those, where they are backed up.",
    ]);
    for from in container.get("envFrom").and_then(Value::as_array).into_iter().flatten() {
        let prefix = match text_at(from, "/prefix") {
            "" => String::new(),
            prefix => format!(", each with {prefix} before its name"),
        };
        for (reference, kind) in [("/configMapRef/name", "ConfigMap"), ("/secretRef/name", "Secret")] {
            match text_at(from, reference) {
                "" => {}
                name => lines.note(&format!("all keys of the {kind} {name}{prefix}")),
            }
        }
    }
    for variable in container.get("env").and_then(Value::as_array).into_iter().flatten() {
        let name = text_at(variable, "/name");
        match variable.get("valueFrom") {
            Some(from) => lines.note(&format!("{name} is {}", reference(from))),
            None => {
                let value = text_at(variable, "/value");
                if !lines.variable(name, value) {
                    lines.note(&format!(
                        "{name} has a name that no file of variables takes; the pod's spec has its value"
                    ));
                }
            }
        }
    }
    lines.into_bytes()
}

/// What a value comes from.
fn reference(from: &Value) -> String {
    let of = |reference: &str, kind: &str| {
        let reference = from.get(reference)?;
        Some(format!("the key {} of the {kind} {}", text_at(reference, "/key"), text_at(reference, "/name")))
    };
    let field = |reference: &str, at: &str| {
        let field = text_at(from.get(reference)?, at).to_owned();
        Some(format!("the field {field} of the pod"))
    };
    of("secretKeyRef", "Secret")
        .or_else(|| of("configMapKeyRef", "ConfigMap"))
        .or_else(|| field("fieldRef", "/fieldPath"))
        .or_else(|| field("resourceFieldRef", "/resource"))
        .unwrap_or_else(|| "of a kind that is not known here".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_stand_there_and_secrets_stay_references() {
        let pod = json!({
            "metadata": { "name": "web-1" },
            "spec": {
                "initContainers": [{ "name": "setup" }],
                "containers": [{
                    "name": "app",
                    "envFrom": [{ "secretRef": { "name": "all" }, "prefix": "P_" }, { "configMapRef": { "name": "map" } }],
                    "env": [
                        { "name": "MODE", "value": "two words" },
                        { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
                        { "name": "LEVEL", "valueFrom": { "configMapKeyRef": { "name": "map", "key": "level" } } },
                        { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                        { "name": "EMPTY" },
                    ],
                }],
            },
        });
        let files = files(&pod);
        assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["app.env", "setup.env"]);
        let text = String::from_utf8(files[0].1.clone()).expect("text");
        for line in [
            "# all keys of the Secret all, each with P_ before its name",
            "# all keys of the ConfigMap map",
            "MODE='two words'",
            "# PASSWORD is the key password of the Secret db",
            "# LEVEL is the key level of the ConfigMap map",
            "# NODE is the field spec.nodeName of the pod",
            "EMPTY=",
        ] {
            assert!(text.lines().any(|is| is == line), "{line}: {text}");
        }
    }
}
