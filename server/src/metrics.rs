//! What is counted, for Prometheus.

use std::time::Duration;

use host::engine::EngineStats;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// All metrics of the server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by endpoint and status.
    pub requests: IntCounterVec,
    /// Prompt tokens of requests that were taken.
    pub prompt_tokens: IntCounter,
    /// Those of them that were in the prefix cache.
    pub cached_tokens: IntCounter,
    /// Tokens generated.
    pub generated_tokens: IntCounter,
    /// From the request's arrival to the engine's first step for it.
    pub schedule: Histogram,
    /// From the request's arrival to its first token.
    pub first_token: Histogram,
    /// From a token of an answer to the next.
    pub inter_token: Histogram,
    /// From the request's arrival to the end of its answer.
    pub duration: Histogram,
    /// Requests that wait for their turn.
    pub waiting: IntGauge,
    /// Answers being computed.
    pub running: IntGauge,
    engine: EngineMetrics,
}

/// What the engine counts.
#[derive(Debug)]
struct EngineMetrics {
    batch: IntGauge,
    pages: IntGauge,
    pages_held: IntGauge,
    pages_cached: IntGauge,
    preemptions: IntCounter,
    saves: IntCounter,
    steps: IntCounter,
    rows: IntCounter,
}

impl EngineMetrics {
    fn set(&self, stats: &EngineStats) {
        for (gauge, value) in [
            (&self.batch, stats.running),
            (&self.pages, stats.kv_pages),
            (&self.pages_held, stats.kv_pages_held),
            (&self.pages_cached, stats.kv_pages_cached),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        for (counter, value) in [
            (&self.preemptions, stats.preemptions),
            (&self.saves, stats.saves),
            (&self.steps, stats.steps),
            (&self.rows, stats.rows),
        ] {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("imp_requests_total", "Requests answered, by endpoint and HTTP status."),
            &["endpoint", "status"],
        );
        let requests = register(&registry, requests.expect("a constant name"));
        let counter = |name: &str, help: &str| {
            register(&registry, IntCounter::new(name, help).expect("a constant name"))
        };
        let gauge = |name: &str, help: &str| {
            register(&registry, IntGauge::new(name, help).expect("a constant name"))
        };
        let histogram = |name: &str, help: &str, first: f64| {
            // 16 buckets, each twice the one before
            let buckets = (0..16).map(|i| first * f64::from(1 << i)).collect();
            let options = HistogramOpts::new(name, help).buckets(buckets);
            register(&registry, Histogram::with_opts(options).expect("a constant name"))
        };
        Self {
            requests,
            prompt_tokens: counter("imp_prompt_tokens_total", "Prompt tokens."),
            cached_tokens: counter(
                "imp_cached_prompt_tokens_total",
                "Prompt tokens found in the prefix cache.",
            ),
            generated_tokens: counter("imp_generated_tokens_total", "Tokens generated."),
            schedule: histogram(
                "imp_time_to_schedule_seconds",
                "Time from a request's arrival to the step that begins to compute it.",
                0.000_125,
            ),
            first_token: histogram(
                "imp_time_to_first_token_seconds",
                "Time from a request's arrival to its first token.",
                0.004,
            ),
            inter_token: histogram(
                "imp_inter_token_seconds",
                "Time from a token of an answer to the next.",
                0.000_5,
            ),
            duration: histogram(
                "imp_request_duration_seconds",
                "Time from a request's arrival to the end of its answer.",
                0.01,
            ),
            waiting: gauge("imp_requests_waiting", "Requests that wait for their turn."),
            running: gauge("imp_answers_running", "Answers that are being computed."),
            engine: EngineMetrics {
                batch: gauge("imp_batch_sequences", "Sequences that are computed together."),
                pages: gauge("imp_kv_pages", "Pages of the KV cache, 16 tokens each."),
                pages_held: gauge("imp_kv_pages_held", "Pages that running sequences hold."),
                pages_cached: gauge("imp_kv_pages_cached", "Pages kept for prefixes."),
                preemptions: counter("imp_preemptions_total", "Sequences that gave up pages."),
                saves: counter("imp_saves_total", "Those of them that saved these on the host."),
                steps: counter("imp_steps_total", "Steps computed."),
                rows: counter("imp_rows_total", "Rows of all steps: tokens computed."),
            },
            registry,
        }
    }

    /// The text format of Prometheus, with what the engine counted if there is one.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn text(&self, engine: Option<EngineStats>) -> Result<String, prometheus::Error> {
        if let Some(stats) = engine {
            self.engine.set(&stats);
        }
        let mut text = vec![];
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn register<T: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: T) -> T {
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

/// Seconds, as Prometheus counts time.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_exposed_by_name() {
        let metrics = Metrics::new();
        metrics.requests.with_label_values(&["/v1/models", "200"]).inc();
        metrics.inter_token.observe(seconds(Duration::from_millis(3)));
        let stats = EngineStats { kv_pages: 9, steps: 5, ..EngineStats::default() };
        metrics.text(Some(stats)).unwrap();
        let stats = EngineStats { kv_pages_held: 4, steps: 7, ..stats };
        let text = metrics.text(Some(stats)).unwrap();
        for expected in [
            "imp_requests_total{endpoint=\"/v1/models\",status=\"200\"} 1",
            "imp_inter_token_seconds_bucket{le=\"0.004\"} 1",
            "imp_inter_token_seconds_count 1",
            "# TYPE imp_time_to_first_token_seconds histogram",
            "imp_time_to_schedule_seconds_bucket{le=\"0.001\"} 0",
            "imp_kv_pages 9",
            "imp_kv_pages_held 4",
            "imp_steps_total 7",
            "imp_requests_waiting 0",
            "imp_answers_running 0",
            "imp_generated_tokens_total 0",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
