//! What the machine calls itself.

/// The host's name in lower case; `localhost` where the system does not tell it.
pub fn hostname() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match told.trim() {
        "" => "localhost".to_owned(),
        name => name.to_ascii_lowercase(),
    }
}
