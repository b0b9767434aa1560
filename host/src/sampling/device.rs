//! The chain as a device computes it: the samplers that its kernels know, with the same order and rounding.

use std::ops::Range;

use gpu_kernels::kernels::sample::SampleRow;

use super::SamplingParams;
use super::params::window;
use crate::ops::{MAX_BIASES, SampleRequest, Window};

/// How a device chooses for a request.
#[derive(Debug)]
pub(super) struct DeviceChain {
    row: SampleRow,
    biases: Vec<(u32, f32)>,
    counted: Option<Counted>,
}

/// What the device has counted for the penalties: a part of the history.
#[derive(Debug)]
struct Counted {
    /// Tokens that the penalties look back on; `usize::MAX` for all.
    window: usize,
    /// `None` before the device was told anything.
    range: Option<Range<usize>>,
}

impl DeviceChain {
    /// `None` when a setting needs the host.
    pub fn new(params: &SamplingParams, vocab_size: usize) -> Option<Self> {
        let greedy = params.is_greedy();
        // A greedy choice is not narrowed, only adjusted.
        let narrows = params.dynatemp_range != 0.0
            || params.mirostat != 0
            || params.typical_p < 1.0
            || params.xtc_probability > 0.0;
        if params.dry_multiplier > 0.0 || params.top_n_sigma > 0.0 || (narrows && !greedy) {
            return None;
        }
        let row = SampleRow {
            temperature: if greedy { 0.0 } else { params.temperature },
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            min_keep: params.min_keep,
            repeat_penalty: params.repeat_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            counts: None,
            bias_start: 0,
            bias_len: 0,
            uniform: 0.0,
        };
        let row = if greedy {
            SampleRow { top_k: 0, top_p: 1.0, min_p: 0.0, min_keep: 0, ..row }
        } else {
            row
        };
        let biases = &params.logit_bias;
        if biases.len() > MAX_BIASES || !row.supports(u32::try_from(vocab_size).ok()?) {
            return None;
        }
        let mut tokens: Vec<u32> = biases.iter().map(|(token, _)| *token).collect();
        SampleRow::check_bias(&mut tokens).ok()?;
        let window = window(params.repeat_last_n);
        let counted = params.penalises().then_some(Counted { window, range: None });
        Some(Self { row, biases: biases.clone(), counted })
    }

    /// The same without some tokens; `None` when they are too many.
    pub fn exclude(mut self, tokens: &[u32]) -> Option<Self> {
        self.biases.retain(|(token, _)| !tokens.contains(token));
        for &token in tokens {
            // They may be named twice.
            if !self.biases.iter().any(|(known, _)| *known == token) {
                self.biases.push((token, f32::NEG_INFINITY));
            }
        }
        (self.biases.len() <= MAX_BIASES).then_some(self)
    }

    /// The device has counted nothing for this sequence.
    pub fn forget_slot(&mut self) {
        if let Some(counted) = &mut self.counted {
            counted.range = None;
        }
    }

    /// How the token after `history` is chosen.
    pub fn request<'a>(
        &'a mut self,
        history: &'a [u32],
        uniform: f64,
        slot: usize,
    ) -> SampleRequest<'a> {
        SampleRequest {
            row: SampleRow { uniform, ..self.row },
            biases: &self.biases,
            window: self.counted.as_mut().map(|counted| counted.move_to(history, slot)),
        }
    }
}

impl Counted {
    /// Moves to the end of `history`, and says what changes.
    fn move_to<'a>(&mut self, history: &'a [u32], slot: usize) -> Window<'a> {
        let now = history.len().saturating_sub(self.window)..history.len();
        let fresh = self.range.is_none();
        let before = self.range.replace(now.clone()).unwrap_or(now.start..now.start);
        // Where all that was counted is out of the window, there are tokens between that came and went.
        let entered = &history[before.end.max(now.start)..now.end];
        let left = &history[before.start..before.end.min(now.start)];
        Window { slot, fresh, entered, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cuda::Emulated;
    use crate::ops::{SampleLimits, Sampled};
    use crate::sampling::Sampler;

    /// The window after each change, kept by the changes alone.
    #[test]
    fn changes_add_up_to_the_window() {
        for window in [1, 2, 5, usize::MAX] {
            let history: Vec<u32> = (0..40).map(|i| i * i % 7).collect();
            let mut counted = Counted { window, range: None };
            let mut counts = [0i32; 7];
            for (turn, len) in [3, 3, 4, 5, 6, 20, 21, 40].into_iter().enumerate() {
                let change = counted.move_to(&history[..len], 3);
                assert_eq!((change.slot, change.fresh), (3, turn == 0));
                change.entered.iter().for_each(|&token| counts[token as usize] += 1);
                change.left.iter().for_each(|&token| counts[token as usize] -= 1);
                let mut expected = [0; 7];
                let seen = &history[len.saturating_sub(window)..len];
                seen.iter().for_each(|&token| expected[token as usize] += 1);
                assert_eq!(counts, expected, "{window} {len}");
            }
        }
    }

    #[test]
    fn settings_of_the_host_alone() {
        let off = SamplingParams::default();
        let on_device = |params: &SamplingParams| DeviceChain::new(params, 5000).is_some();
        for params in [
            SamplingParams { dry_multiplier: 0.5, ..off.clone() },
            SamplingParams { top_n_sigma: 1.0, ..off.clone() },
            SamplingParams { typical_p: 0.9, ..off.clone() },
            SamplingParams { xtc_probability: 0.1, ..off.clone() },
            SamplingParams { dynatemp_range: 0.5, ..off.clone() },
            SamplingParams { temperature: 0.0, dynatemp_range: 0.5, ..off.clone() },
            SamplingParams { mirostat: 2, ..off.clone() },
            SamplingParams { top_k: 2000, ..off.clone() },
            SamplingParams { min_keep: 2000, min_p: 0.1, ..off.clone() },
            SamplingParams { logit_bias: vec![(3, 1.0), (4, 1.0), (3, 1.0)], ..off.clone() },
            SamplingParams { logit_bias: (0..1025).map(|i| (i, 1.0)).collect(), ..off.clone() },
        ] {
            assert!(!on_device(&params), "{params:?}");
        }
        for params in [
            off.clone(),
            SamplingParams { top_k: 1024, top_p: 0.9, min_p: 0.1, min_keep: 3, ..off.clone() },
            SamplingParams { top_k: 5000, ..off.clone() },
            SamplingParams { temperature: 0.0, typical_p: 0.9, top_k: 2000, ..off.clone() },
            SamplingParams { temperature: 0.0, mirostat: 2, dynatemp_range: 1.0, ..off.clone() },
            SamplingParams { logit_bias: (0..1024).map(|i| (i, 1.0)).collect(), ..off.clone() },
        ] {
            assert!(on_device(&params), "{params:?}");
        }
        let mut full = SamplingParams { logit_bias: vec![], ..off };
        full.logit_bias = (0..1024).map(|i| (i, 1.0)).collect();
        let full = || DeviceChain::new(&full, 5000).unwrap();
        assert!(full().exclude(&[1024]).is_none());
        let biases = full().exclude(&[9, 8, 9]).unwrap().biases;
        assert_eq!(biases.len(), 1024);
        assert!(biases.contains(&(9, f32::NEG_INFINITY)) && !biases.contains(&(9, 1.0)));
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % n
        }
        fn unit(&mut self) -> f32 {
            self.below(1 << 24) as f32 / (1 << 24) as f32
        }
        fn maybe<T>(&mut self, some: impl FnOnce(&mut Self) -> T, none: T) -> T {
            if self.below(2) == 0 { some(self) } else { none }
        }
    }

    fn settings(random: &mut Random, vocab: u32) -> SamplingParams {
        let mut params = SamplingParams { seed: Some(random.0), ..SamplingParams::default() };
        params.temperature = [0.0, 0.3, 1.0, 1.8][random.below(4) as usize];
        params.top_k = random.maybe(|r| 1 + r.below(60) as u32, 0);
        params.top_p = random.maybe(Random::unit, 1.0);
        params.min_p = random.maybe(|r| 0.3 * r.unit(), 0.0);
        params.min_keep = random.maybe(|r| r.below(6) as u32, 0);
        if random.below(2) == 0 {
            params.repeat_penalty = 0.8 + random.unit();
            params.frequency_penalty = random.unit() - 0.3;
            params.presence_penalty = random.unit() - 0.3;
            params.repeat_last_n = random.maybe(|r| r.below(9) as u32, 0);
        }
        if random.below(2) == 0 {
            params.logit_bias =
                vec![(0, f32::NEG_INFINITY), (7, 4.0 * random.unit()), (vocab - 1, -random.unit())];
        }
        params
    }

    /// Whole answers: what the kernels choose by the requests, and the host's chain by itself.
    #[test]
    fn a_device_chooses_the_same_tokens() {
        let mut random = Random(88_172_645_463_325_252);
        let mut left_to_host = 0;
        for case in 0..50 {
            let vocab = [33, 300, 5000][case % 3];
            let params = settings(&mut random, vocab as u32);
            let prompt: Vec<u32> =
                (0..12).map(|_| random.below(vocab as u64 + 5) as u32 / 4 * 4).collect();
            let new = || Sampler::new(&params, &prompt, vocab, vec![]).unwrap();
            let (mut host, mut device) = (new(), new());
            if case % 4 == 0 {
                host.exclude(&[5, 1, vocab as u32]);
                device.exclude(&[5, 1, vocab as u32]);
            }
            let limits = SampleLimits { rows: 1, slots: 3, vocab };
            let mut kernels = Emulated::new(&limits);
            for step in 0..4 {
                let logits: Vec<f32> = (0..vocab)
                    .map(|_| 3.0 * (random.unit() + random.unit() + random.unit() - 1.5) + 1.0)
                    .map(|x| if x > 4.0 { 2.0 * x } else { x })
                    .collect();
                let expected = host.sample(&mut logits.clone()).unwrap();
                let request = device.device_request(case % 3).expect("settings of the device");
                let name = format!("case {case}, step {step}, {params:?}");
                match kernels.sample(&logits, &[request])[0] {
                    Sampled::Token { id, logprob } => {
                        assert_eq!(id, expected, "{name}");
                        let (exact, _) = super::super::top_logprobs(&logits, id, 0);
                        assert!((logprob - exact).abs() < 1e-5 * exact.abs().max(1.0), "{name}");
                        device.accept_drawn(id);
                    }
                    // Top-p among many equals: the host chooses, with the same number.
                    Sampled::NeedsHost => {
                        left_to_host += 1;
                        let id = device.sample(&mut logits.clone()).unwrap();
                        assert_eq!(id, expected, "{name}");
                        device.accept(id);
                    }
                    Sampled::NoDistribution => panic!("{name}"),
                }
                host.accept(expected);
            }
        }
        assert!(left_to_host < 20, "{left_to_host} of 200 say nothing of the device");
    }

    /// A prompt longer than what is told at once, and a slot that another sequence used.
    #[test]
    fn windows_of_long_prompts_and_used_slots() {
        let vocab = 100;
        let mut kernels = Emulated::new(&SampleLimits { rows: 1, slots: 1, vocab });
        let logits: Vec<f32> = (0..vocab).map(|i| 1.0 - i as f32 * 1e-3).collect();
        for (len, seen) in [(9000, 50), (3, 2), (5000, 99)] {
            let params = SamplingParams {
                temperature: 0.0,
                presence_penalty: 1.0,
                ..SamplingParams::default()
            };
            let prompt: Vec<u32> = (0..len).map(|i| i % seen).collect();
            let mut sampler = Sampler::new(&params, &prompt, vocab, vec![]).unwrap();
            let request = sampler.device_request(0).unwrap();
            let Sampled::Token { id, .. } = kernels.sample(&logits, &[request])[0] else {
                panic!("a token")
            };
            assert_eq!(id, seen, "the best that was not seen");
        }
    }
}
