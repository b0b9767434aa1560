//! Times one step of the samplers, medians of 101.
//!
//! `cargo run --release -p host --example sampling`

use std::hint::black_box;
use std::time::Instant;

use host::sampling::{Sampler, SamplingError, SamplingParams};

fn main() -> Result<(), SamplingError> {
    let off = SamplingParams::default();
    let manual = SamplingParams { temperature: 0.7, top_p: 0.9, top_k: 40, ..off.clone() };
    let penalised = SamplingParams { repeat_penalty: 1.1, dry_multiplier: 0.8, ..manual.clone() };
    let settings = [
        ("greedy", SamplingParams { temperature: 0.0, ..off.clone() }),
        ("the manual's defaults", manual),
        ("with penalties and DRY, 4096 tokens", penalised),
        ("temperature alone", SamplingParams { temperature: 0.7, ..off.clone() }),
        ("typical-p alone", SamplingParams { typical_p: 0.9, ..off.clone() }),
        ("Mirostat", SamplingParams { mirostat: 2, ..off }),
    ];
    let prompt: Vec<u32> = (0..4096).map(|i| i * i % 997).collect();
    for vocab_size in [49_152, 262_144] {
        let logits = logits(vocab_size);
        for (name, params) in &settings {
            let mut sampler = Sampler::new(params, &prompt, vocab_size, vec![])?;
            let mut scratch = logits.clone();
            let mut times = vec![];
            for _ in 0..101 {
                scratch.copy_from_slice(&logits);
                let start = Instant::now();
                black_box(sampler.sample(&mut scratch)?);
                times.push(start.elapsed());
            }
            times.sort();
            println!("{vocab_size}: {name}: {:?}", times[50]);
        }
    }
    Ok(())
}

/// A few likely tokens over a wide floor, in no order.
fn logits(vocab_size: usize) -> Vec<f32> {
    let scattered = |i: usize| (i.wrapping_mul(0x9e37_79b9) % 10_007) as f32 / 10_007.0;
    (0..vocab_size).map(|i| -8.0 * scattered(i).max(1e-4).ln() - 8.0).collect()
}
