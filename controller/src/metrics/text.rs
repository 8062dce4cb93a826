//! Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;

use crate::metrics::families::{self, Family, Kind};

/// The figures of one moment.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// By family's name: what stands after it, and its figure.
    series: BTreeMap<&'static str, Vec<(String, f64)>>,
}

impl Page {
    /// Adds a series; its labels' values in the order in which the family names them.
    pub(crate) fn put(&mut self, family: &'static Family, values: &[&str], figure: f64) {
        let labels = labels(family.labels.iter().copied().zip(values.iter().copied()));
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        self.series.entry(family.name).or_default().push((labels, figure));
    }

    /// The same for a whole number. Beyond 2^53 the last digits are lost, as Prometheus loses them.
    pub(crate) fn count(&mut self, family: &'static Family, values: &[&str], figure: u64) {
        self.put(family, values, figure as f64);
    }

    /// The same for yes and no.
    pub(crate) fn flag(&mut self, family: &'static Family, values: &[&str], is: bool) {
        self.put(family, values, f64::from(u8::from(is)));
    }

    /// The same for a moment.
    pub(crate) fn time(&mut self, family: &'static Family, values: &[&str], at: jiff::Timestamp) {
        self.put(family, values, at.as_millisecond() as f64 / 1_000.0);
    }

    /// A histogram: how many were at most each bound, the sum, and how many there were.
    pub(crate) fn histogram(
        &mut self,
        family: &'static Family,
        values: &[&str],
        buckets: impl Iterator<Item = (f64, u64)>,
        sum: f64,
        count: u64,
    ) {
        let own = || family.labels.iter().copied().zip(values.iter().copied());
        let lines = self.series.entry(family.name).or_default();
        for (bound, below) in buckets {
            let bound = bound.to_string();
            let labels = labels(own().chain([("le", bound.as_str())]));
            lines.push((format!("_bucket{labels}"), below as f64));
        }
        lines.push((format!("_bucket{}", labels(own().chain([("le", "+Inf")]))), count as f64));
        lines.push((format!("_sum{}", labels(own())), sum));
        lines.push((format!("_count{}", labels(own())), count as f64));
    }

    /// As it is sent. A family without series is told all the same: whoever reads sees what there may be.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for family in families::ALL {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let name = family.name;
            text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", family.help));
            for (labels, figure) in self.series.get(name).into_iter().flatten() {
                text.push_str(&format!("{name}{labels} {figure}\n"));
            }
        }
        text
    }
}

/// `{a="x",b="y"}`; nothing where there is none.
fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_label_cannot_end_its_line_or_its_quotes() {
        let mut page = Page::default();
        page.flag(&families::AGENT_UP, &["a\"} 1\nneurashield_ready 0\\"], true);
        let text = page.text();
        assert!(
            text.contains("neurashield_agent_connected{agent=\"a\\\"} 1\\nneurashield_ready 0\\\\\"} 1\n"),
            "{text}"
        );
        assert!(!text.contains("\nneurashield_ready 0"), "{text}");
    }

    #[test]
    fn figures_are_written_without_losing_a_byte_of_a_petabyte() {
        let mut page = Page::default();
        page.count(&families::FREE, &[], (1 << 50) + 1);
        assert!(page.text().contains("\nneurashield_storage_free_bytes 1125899906842625\n"));
    }

    #[test]
    fn a_duration_counts_in_every_bucket_that_holds_it() {
        let metrics = Metrics::default();
        metrics.took(&families::JOB_SECONDS, "backup", 61.0);
        metrics.took(&families::JOB_SECONDS, "backup", 0.5);
        let mut page = Page::default();
        metrics.put_into(&mut page);
        let text = page.text();
        for line in [
            "neurashield_job_duration_seconds_bucket{kind=\"backup\",le=\"1\"} 1\n",
            "neurashield_job_duration_seconds_bucket{kind=\"backup\",le=\"60\"} 1\n",
            "neurashield_job_duration_seconds_bucket{kind=\"backup\",le=\"300\"} 2\n",
            "neurashield_job_duration_seconds_bucket{kind=\"backup\",le=\"+Inf\"} 2\n",
            "neurashield_job_duration_seconds_sum{kind=\"backup\"} 61.5\n",
            "neurashield_job_duration_seconds_count{kind=\"backup\"} 2\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
