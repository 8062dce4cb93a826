//! Logs: to stderr, as text for a person at a terminal and as JSON for everything else.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Logs cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The text of a filter variable is no filter.
    #[error(
        "{variable} is not a log filter; write a level (error, warn, info, debug, trace) or module=level, …"
    )]
    Filter {
        /// Which variable.
        variable: &'static str,
        /// The cause.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The format is unknown.
    #[error("NEURASHIELD_LOG_FORMAT is not an allowed word; allowed: text, json")]
    Format,
    /// Somebody has set up logs in this process before.
    #[error("logs are set up already")]
    Already(#[source] tracing_subscriber::util::TryInitError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Sets up logs for this process: level by `NEURASHIELD_LOG`, else `RUST_LOG`, else `info`; format by
/// `NEURASHIELD_LOG_FORMAT` (`text` or `json`), else text on a terminal and JSON off it.
pub fn init() -> Result<(), TelemetryError> {
    let filter = filter(|name| std::env::var(name).ok())?;
    let is_terminal = std::io::stderr().is_terminal();
    // It logs answers whole, in which secrets stand.
    let filter = filter.add_directive("kube_client=off".parse().expect("it is a directive"));
    let format = format(std::env::var("NEURASHIELD_LOG_FORMAT").ok(), is_terminal)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match format {
        Format::Text => logs.with_ansi(is_terminal).with_target(false).finish().try_init(),
        Format::Json => logs.json().flatten_event(true).with_span_list(false).finish().try_init(),
    };
    result.map_err(TelemetryError::Already)
}

fn filter(variable: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, TelemetryError> {
    for name in ["NEURASHIELD_LOG", "RUST_LOG"] {
        if let Some(text) = variable(name).filter(|text| !text.is_empty()) {
            return EnvFilter::try_new(text)
                .map_err(|source| TelemetryError::Filter { variable: name, source });
        }
    }
    Ok(EnvFilter::new("info"))
}

fn format(asked: Option<String>, is_terminal: bool) -> Result<Format, TelemetryError> {
    match asked.as_deref() {
        Some("text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        None | Some("") if is_terminal => Ok(Format::Text),
        None | Some("") => Ok(Format::Json),
        Some(_) => Err(TelemetryError::Format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_terminal_unless_it_is_asked_for() {
        let format =
            |asked: Option<&str>, is_terminal| format(asked.map(str::to_owned), is_terminal).unwrap();
        assert_eq!(format(None, true), Format::Text);
        assert_eq!(format(None, false), Format::Json);
        assert_eq!(format(Some("json"), true), Format::Json);
        assert_eq!(format(Some("text"), false), Format::Text);
    }

    #[test]
    fn an_unknown_format_is_refused_with_what_is_allowed() {
        let error = format(Some("xml".to_owned()), true).unwrap_err();
        assert_eq!(error.to_string(), "NEURASHIELD_LOG_FORMAT is not an allowed word; allowed: text, json");
    }

    #[test]
    fn our_own_filter_variable_wins_over_rust_log_and_info_is_the_default() {
        let told = |ours: &'static str| {
            move |name: &str| Some(if name == "RUST_LOG" { "trace" } else { ours }.to_owned())
        };
        assert_eq!(filter(told("warn")).unwrap().to_string(), "warn");
        assert_eq!(filter(told("")).unwrap().to_string(), "trace");
        assert_eq!(filter(|_| None).unwrap().to_string(), "info");
        let error = filter(told("info=loud")).unwrap_err();
        assert!(error.to_string().starts_with("NEURASHIELD_LOG is not a log filter"), "{error}");
    }
}
