//! What a program answers to `--version`.

/// The version of the program that calls this and, where its build says so in `NEURASHIELD_COMMIT`, the commit that
/// it was made of: `0.1.0 (3f1e9de1a2b3)`. `deploy/static-programs` says so; the usual build does not, so that a
/// commit does not compile anything anew.
#[macro_export]
macro_rules! version {
    () => {{
        static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
            match option_env!("NEURASHIELD_COMMIT").filter(|commit| !commit.is_empty()) {
                Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
                None => env!("CARGO_PKG_VERSION").to_owned(),
            }
        });
        VERSION.as_str()
    }};
}
