//! Values that are typed in words: timestamps, sizes and times.

/// A backup's timestamp, or `latest`. Nothing else goes further: an empty variable in a script must not
/// become somebody's choice.
pub(super) fn backup_name(text: &str) -> Result<String, String> {
    if text != "latest" {
        text.parse::<::repository::names::BackupName>()
            .map_err(|_| "not YYYYMMDD_HHMMSS (UTC) and not `latest`")?;
    }
    Ok(text.to_owned())
}

/// Why something is kept: an empty variable in a script must not mean that it is not.
pub(super) fn some_reason(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Err("it says nothing".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A pattern of paths, as the agent understands it.
pub(super) fn path_pattern(text: &str) -> Result<String, String> {
    match agent::targets::files::PathPatterns::new(&[text.to_owned()]) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            Err(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
        }
    }
}

/// Bytes of a size like `200GiB`.
pub(super) fn read_size(text: &str) -> Result<u64, String> {
    match text.parse::<runtime::config::Size>()?.bytes() {
        0 => Err("nothing would be read".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Seconds of a time like `1h` or `1h 30m`, at most 30 days.
pub(super) fn valid_seconds(text: &str) -> Result<u32, String> {
    seconds(text, 30).ok_or_else(|| "not a time between 1m and 30d, e.g. 30m, 1h, 2d".to_owned())
}

pub(super) fn seconds(text: &str, most_days: u32) -> Option<u32> {
    let seconds = u32::try_from(length(text)?.as_secs()).ok()?;
    (60..=most_days * 86_400).contains(&seconds).then_some(seconds)
}

pub(super) fn length(text: &str) -> Option<jiff::SignedDuration> {
    text.parse::<jiff::Span>()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_between_a_minute_and_thirty_days() {
        assert_eq!(valid_seconds("1h 30m"), Ok(5400));
        assert_eq!(valid_seconds("2d"), Ok(172_800));
        for wrong in ["", "1", "5s", "31d", "-1h", "soon"] {
            assert!(valid_seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
