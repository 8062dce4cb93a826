//! A command of the node with its arguments.

/// The command, as the path of a request.
#[derive(Debug, Clone)]
pub(crate) struct Call(pub(super) String);

impl Call {
    pub(crate) fn new(command: &str) -> Self {
        Self(format!("/api/v0/{command}?offline=true"))
    }

    /// With one more argument.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push('&');
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    self.0.push(char::from(byte));
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
        self
    }

    pub(crate) fn arg(self, value: &str) -> Self {
        self.with("arg", value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_escaped() {
        let call = Call::new("pin/add").arg("Qm").with("name", "a b&c=é/");
        assert_eq!(call.0, "/api/v0/pin/add?offline=true&arg=Qm&name=a%20b%26c%3D%C3%A9/");
    }
}
