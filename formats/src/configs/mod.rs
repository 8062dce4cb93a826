//! Configuration files: each parses as what its name says.
//!
//! | name | what it must be |
//! |---|---|
//! | `*.yaml`, `*.yml` | YAML 1.2, one or more documents, no key twice |
//! | `*.json` | one JSON value |
//! | `*.toml` | TOML 1 |
//! | `.env`, `.env.*`, `*.env` | lines `NAME=value` as Compose reads them |
//! | `*.properties` | Java properties: every `\u` has its four digits |
//! | `kubernetes/NAMESPACE/KIND/NAME.json` | an object of a cluster: `apiVersion`, and the kind, namespace and name of its path |
//! | `*.pem`, `*.crt`, `*.cer`, `*.key` | PEM blocks that are whole; certificates are told when they expire |
//!
//! Any other name may hold anything.

mod env;
mod object;
mod pem;
mod properties;

use jiff::Timestamp;
use repository::check::{CheckedFile, ContentCheck, Finding, Severity};
use serde::de::IgnoredAny;

/// The longest file that is parsed.
const MAX_FILE: u64 = 16 << 20;
/// The longest YAML that is parsed: its reader takes some times its bytes.
const MAX_YAML: u64 = 4 << 20;
/// The longest TOML that is parsed: all of it becomes a tree.
const MAX_TOML: u64 = 1 << 20;

/// Looks into configuration files.
pub struct ConfigsCheck {
    now: Timestamp,
    path: Vec<u8>,
    claim: Claim,
    length: u64,
    text: Vec<u8>,
}

/// What a file claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Yaml,
    Json,
    Object,
    Toml,
    Env,
    Properties,
    Pem,
}

/// Where a text stops being what it claims to be; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    line: u64,
    column: u64,
}

impl ConfigsCheck {
    /// Judges the expiry of certificates by `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now, path: Vec::new(), claim: Claim::Env, length: 0, text: Vec::new() }
    }

    fn finding(&self, severity: Severity, what: String) -> Finding {
        Finding { path: self.path.clone(), what, severity }
    }

    fn longest(&self) -> u64 {
        match self.claim {
            Claim::Yaml => MAX_YAML,
            Claim::Toml => MAX_TOML,
            _ => MAX_FILE,
        }
    }
}

impl ContentCheck for ConfigsCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        let Some(claim) = Claim::of(file.path) else { return false };
        // A certificate expires by itself.
        if file.is_proven && claim != Claim::Pem {
            return false;
        }
        self.path = file.path.to_vec();
        self.claim = claim;
        self.length = file.length;
        self.text.clear();
        true
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        if self.length > self.longest() {
            return false;
        }
        self.text.extend_from_slice(bytes);
        true
    }

    fn file_end(&mut self) -> Vec<Finding> {
        if self.length > self.longest() {
            let what = format!("it is too long to be parsed ({} bytes)", self.length);
            return vec![self.finding(Severity::Told, what)];
        }
        let text = std::mem::take(&mut self.text);
        let wrong = |of: &'static str| {
            move |place: Option<Place>| match place {
                Some(Place { line, column }) => format!("it is not {of}: line {line}, column {column}"),
                None => format!("it is not {of}"),
            }
        };
        let judged = match self.claim {
            Claim::Yaml => yaml(&text).map_err(wrong("YAML")),
            Claim::Json => json(&text).map_err(wrong("JSON")),
            Claim::Object => match json(&text) {
                Ok(()) => {
                    let wrong = object::look(&self.path, &text).err();
                    return wrong.map(|what| self.finding(Severity::Broken, what)).into_iter().collect();
                }
                Err(place) => Err(wrong("JSON")(place)),
            },
            Claim::Toml => toml(&text).map_err(wrong("TOML")),
            Claim::Env => utf8(&text)
                .and_then(|text| env::parse(text).map_err(Some))
                .map_err(wrong("a list of NAME=value")),
            Claim::Properties => properties::parse(&text).map_err(Some).map_err(wrong("a properties file")),
            Claim::Pem => {
                let found = pem::look(&text, self.now);
                return found.into_iter().map(|(severity, what)| self.finding(severity, what)).collect();
            }
        };
        judged.err().map(|what| self.finding(Severity::Broken, what)).into_iter().collect()
    }

    fn reads_little(&self) -> bool {
        true
    }

    fn end(&mut self) -> Vec<Finding> {
        Vec::new()
    }
}

impl Claim {
    fn of(path: &[u8]) -> Option<Self> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path).to_ascii_lowercase();
        if name == b".env" || name.starts_with(b".env.") {
            return Some(Claim::Env);
        }
        let dot = name.iter().rposition(|byte| *byte == b'.')?;
        Some(match &name[dot + 1..] {
            b"yaml" | b"yml" => Claim::Yaml,
            b"json" if object::is_one(path) => Claim::Object,
            b"json" => Claim::Json,
            b"toml" => Claim::Toml,
            b"env" => Claim::Env,
            b"properties" => Claim::Properties,
            b"pem" | b"crt" | b"cer" | b"key" => Claim::Pem,
            _ => return None,
        })
    }
}

fn utf8(text: &[u8]) -> Result<&str, Option<Place>> {
    std::str::from_utf8(text).map_err(|error| Some(place_of(text, error.valid_up_to())))
}

fn yaml(text: &[u8]) -> Result<(), Option<Place>> {
    let text = utf8(text)?;
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_multiple_with_options::<IgnoredAny>(text, options) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.location().map(|at| Place { line: at.line(), column: at.column() })),
    }
}

fn json(text: &[u8]) -> Result<(), Option<Place>> {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Some(Place { line: error.line() as u64, column: error.column() as u64 })),
    }
}

fn toml(text: &[u8]) -> Result<(), Option<Place>> {
    let text = utf8(text)?;
    match toml::from_str::<toml::Table>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.span().map(|span| place_of(text.as_bytes(), span.start))),
    }
}

/// The place of the byte at `offset`.
fn place_of(text: &[u8], offset: usize) -> Place {
    let before = &text[..offset.min(text.len())];
    let line_begins = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before[line_begins..].iter().filter(|byte| (**byte as i8) >= -64).count();
    Place { line: line as u64, column: column as u64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-26T00:00:00Z".parse().expect("a time")
    }

    /// What is said of a file of this name and content.
    fn said(name: &str, content: &[u8]) -> Vec<String> {
        let mut check = ConfigsCheck::new(now());
        let file = CheckedFile { path: name.as_bytes(), length: content.len() as u64, is_proven: false };
        if !check.file(file) {
            return vec!["of no interest".to_owned()];
        }
        content.chunks(7).all(|piece| check.bytes(piece));
        check.file_end().iter().map(|finding| format!("{:?} {finding}", finding.severity)).collect()
    }

    #[test]
    fn what_is_right_is_passed_over() {
        for (name, content) in [
            ("app/compose.yaml", "services:\n  a: &x {image: b}\n  c: *x\n---\nsecond: true\n"),
            ("empty.yml", ""),
            ("tags.yaml", "a: !Ref name\nb: !!str 5\n"),
            ("package.json", "{\"a\": [1, 2, {}]}\n"),
            ("Cargo.toml", "[package]\nname = \"x\"\n"),
            (".env", "# comment\nA=1\nexport B='x=y'\nC=\nMULTI=\"one\ntwo\"\n\n"),
            (".env.production", "KEY=value # said\r\n"),
            ("log4j.properties", "a.b = c\\\n  d\n# e\n! f\nkey\\u0041: g\n"),
        ] {
            assert_eq!(said(name, content.as_bytes()), [""; 0], "{name}");
        }
    }

    #[test]
    fn what_is_broken_is_named_with_its_line_and_without_its_content() {
        for (name, content, told) in [
            ("a.yaml", "a: 1\nb: [secret\nc: 2\n", "a.yaml: it is not YAML: line "),
            ("twice.yaml", "secret: 1\nsecret: 2\n", "twice.yaml: it is not YAML: line 2, column 1"),
            ("a.json", "{\"a\": secret}", "a.json: it is not JSON: line 1, column 7"),
            ("empty.json", "", "empty.json: it is not JSON: line 1, column 0"),
            ("a.toml", "a = 1\nsecret\n", "a.toml: it is not TOML: line 2, column 7"),
            (".env", "A=1\nsecret value\n", ".env: it is not a list of NAME=value: line 2, column 1"),
            ("x.env", "A=\"secret\nB=2\n", "x.env: it is not a list of NAME=value: line 1, column 3"),
            ("x.properties", "a=\\u00g1\n", "x.properties: it is not a properties file: line 1, column 3"),
            ("x.yaml", "a: \u{1}\n", "x.yaml: it is not YAML: line 1"),
        ] {
            let said = said(name, content.as_bytes());
            let [line] = said.as_slice() else { panic!("{name}: {said:?}") };
            assert!(line.starts_with(&format!("Broken {told}")), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
        assert_eq!(said("a.yaml", b"a: \xff"), ["Broken a.yaml: it is not YAML: line 1, column 4"]);
    }

    #[test]
    fn an_object_of_a_cluster_is_the_one_that_its_path_names() {
        let path = "kubernetes/shop/Deployment.apps/web.json";
        let object = |kind: &str, namespace: &str, name: &str| {
            format!(
                "{{\"apiVersion\": \"apps/v1\", \"kind\": \"{kind}\", \"metadata\": {{\"namespace\": \
                 \"{namespace}\", \"name\": \"{name}\"}}, \"spec\": {{\"secret\": 1}}}}"
            )
        };
        assert_eq!(said(path, object("Deployment", "shop", "web").as_bytes()), [""; 0]);
        for (content, told) in [
            (object("Secret", "shop", "web"), "it is no Deployment.apps"),
            (object("Deployment", "other", "web"), "it is not of the namespace shop"),
            (object("Deployment", "shop", "x"), "it is not called web"),
            ("{\"secret\": 1}".to_owned(), "it is no object of Kubernetes"),
            ("[]".to_owned(), "it is no object of Kubernetes"),
            ("{\"secret\"".to_owned(), "it is not JSON: line 1"),
        ] {
            let said = said(path, content.as_bytes());
            let [line] = said.as_slice() else { panic!("{content}: {said:?}") };
            assert!(line.starts_with(&format!("Broken {path}: {told}")), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
        // Elsewhere it is any JSON.
        assert_eq!(said("kubernetes/a.json", b"[]"), [""; 0]);
    }

    #[test]
    fn other_names_may_hold_anything() {
        for name in ["Makefile", "nginx.conf", "a.txt", "yaml", "env"] {
            assert_eq!(said(name, b"{{{"), ["of no interest"], "{name}");
        }
    }

    #[test]
    fn a_proven_file_is_not_parsed_again_but_for_certificates() {
        let mut check = ConfigsCheck::new(now());
        let mut wanted =
            |path: &str| check.file(CheckedFile { path: path.as_bytes(), length: 1, is_proven: true });
        assert!(!wanted("a.yaml"));
        assert!(wanted("a.pem"));
    }

    #[test]
    fn a_file_beyond_the_limit_is_told_and_not_kept() {
        let mut check = ConfigsCheck::new(now());
        assert!(check.file(CheckedFile { path: b"a.yaml", length: MAX_YAML + 1, is_proven: false }));
        assert!(!check.bytes(&[b'a'; 100]));
        assert!(check.text.is_empty());
        let found = check.file_end();
        assert_eq!(found[0].severity, Severity::Told);
    }

    #[test]
    fn a_bomb_of_aliases_and_a_deep_nesting_end_in_time() {
        let bomb = (0..40).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
            let before = format!("*a{at},").repeat(9);
            format!("{text}a{next}: &a{next} [{before}]\n", next = at + 1)
        });
        assert_eq!(said("bomb.yaml", bomb.as_bytes()).len(), 1);
        for (name, open) in [("d.yaml", "["), ("d.json", "["), ("d.toml", "a=[[[[[[[["), ("e.yaml", "{a: ")] {
            assert_eq!(said(name, open.repeat(100_000).as_bytes()).len(), 1, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_check_fail(content: Vec<u8>, which in 0..7_usize) {
            said(["a.yaml", "kubernetes/n/K/a.json", "a.json", "a.toml", ".env", "a.properties", "a.pem"][which], &content);
        }

        #[test]
        fn no_text_makes_a_check_fail(content in "[-a-z0-9:=\\[\\]{}\"'\\\\u&*!|>\n #.,]{0,200}", which in 0..6_usize) {
            said(["a.yaml", "kubernetes/n/K/a.json", "a.json", "a.toml", ".env", "a.properties"][which], content.as_bytes());
        }
    }
}
