//! Builds one metric family, with the labels that its declaration names.

use prometheus::proto;

use super::names::{Kind, Metric};
use super::{BOUNDS, Histogram};

/// The samples of one [`Metric`], on their way to the encoder.
#[derive(Debug)]
pub struct Family {
    metric: &'static Metric,
    samples: Vec<proto::Metric>,
}

impl Family {
    /// No samples yet.
    pub fn new(metric: &'static Metric) -> Self {
        Self { metric, samples: Vec::new() }
    }

    /// A family of one sample without labels.
    pub fn single(metric: &'static Metric, value: f64) -> Self {
        let mut family = Self::new(metric);
        family.add(&[], value);
        family
    }

    /// Adds a sample of a counter or gauge; label values in the order of the declaration.
    pub fn add(&mut self, labels: &[&str], value: f64) {
        let mut sample = self.labelled(labels);
        match self.metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
            Kind::Histogram => unreachable!("histograms are added by add_histogram"),
        }
        self.samples.push(sample);
    }

    /// Adds a histogram that is the sum of `parts` (one per worker).
    ///
    /// The count is the sum of the buckets that were read, not a counter of its own: the workers go on counting
    /// meanwhile, and count and +Inf bucket must agree.
    pub fn add_histogram<'a>(&mut self, labels: &[&str], parts: impl Iterator<Item = &'a Histogram>) {
        let mut counts = [0u64; BOUNDS.len() + 1];
        let mut sum = 0.0;
        for part in parts {
            for (total, n) in counts.iter_mut().zip(part.buckets()) {
                *total += n;
            }
            sum += part.sum_seconds();
        }
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (bound, n) in BOUNDS.iter().zip(counts) {
            cumulative += n;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        // The encoder writes the +Inf bucket itself, from the count.
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        let mut sample = self.labelled(labels);
        sample.set_histogram(histogram);
        self.samples.push(sample);
    }

    /// The family for the encoder; none if there is no sample, which the encoder would take for an error.
    pub fn build(self) -> Option<proto::MetricFamily> {
        if self.samples.is_empty() {
            return None;
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(match self.metric.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        family.set_metric(self.samples);
        Some(family)
    }

    fn labelled(&self, values: &[&str]) -> proto::Metric {
        assert_eq!(values.len(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let pairs = self.metric.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        proto::Metric::from_label(pairs.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::TextEncoder;

    use super::super::names;
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_sums_the_workers() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.observe(Duration::from_micros(50), 2);
        b.observe(Duration::from_micros(200), 1);
        b.observe(Duration::from_secs(60), 1);
        let mut family = Family::new(names::COMMAND_DURATION);
        family.add_histogram(&["s", "read"], [&a, &b].into_iter());
        let text = TextEncoder::new().encode_to_string(&[family.build().unwrap()]).unwrap();
        for line in [
            "pointsman_command_duration_seconds_bucket{service=\"s\",class=\"read\",le=\"0.0001\"} 2\n",
            "pointsman_command_duration_seconds_bucket{service=\"s\",class=\"read\",le=\"0.00025\"} 3\n",
            "pointsman_command_duration_seconds_bucket{service=\"s\",class=\"read\",le=\"5\"} 3\n",
            "pointsman_command_duration_seconds_bucket{service=\"s\",class=\"read\",le=\"+Inf\"} 4\n",
            "pointsman_command_duration_seconds_count{service=\"s\",class=\"read\"} 4\n",
            "pointsman_command_duration_seconds_sum{service=\"s\",class=\"read\"} 60.0003\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_family_without_samples_is_left_out() {
        assert!(Family::new(names::CLIENTS).build().is_none());
    }
}
