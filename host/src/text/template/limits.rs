//! The bounds on a template, and the stack that makes them safe.
//!
//! The engine counts work in steps of fuel: one an instruction, one every 64 bytes of data that it
//! makes or walks, before large results are allocated. So fuel bounds time and memory alike. What
//! fuel cannot bound is the depth of what an instruction recurses into: a syntax tree, or a value
//! nested once a step. Those recursions get a stack of their own, reserved for the deepest case and
//! touched only as far as it is used.

use std::thread;

use super::TemplateError;

/// Longest source, in bytes. The largest published templates are near 20 KB.
pub const SOURCE_BYTES: usize = 128 * 1024;
/// Most tokens in one tag: an expression's tree is at most this deep.
pub const TAG_TOKENS: usize = 4096;
/// Most `elif` in a template: each nests one level deeper than the one before.
pub const BRANCHES: usize = 1024;
/// Deepest recursion of the running template: a macro call takes about five, so that 40 can nest.
pub const RECURSION: usize = 300;
/// Deepest nesting of lists and mappings that come in, are kept in a namespace, or are printed.
pub const VALUE_DEPTH: usize = 128;
/// Most values in a list, mapping or tuple that a template writes out, over those of the
/// conversation; what is held twice counts twice.
pub const VALUE_ITEMS: usize = 512;
/// Steps of a rendering, whatever the conversation.
pub const RENDER_FUEL: u64 = 200_000;
/// Steps for every byte of the conversation: each may be copied, trimmed and joined about 64 times.
pub const FUEL_PER_INPUT_BYTE: u64 = 1;
/// Largest prompt, in bytes, whatever the conversation.
pub const OUTPUT_BYTES: usize = 4 << 20;
/// Further bytes of prompt for every byte of the conversation.
pub const OUTPUT_PER_INPUT_BYTE: usize = 4;

/// Stack for compiling: `TAG_TOKENS` or `BRANCHES` levels take under 8 KiB each.
pub(super) const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Stack for every step of fuel: a step nests a value by less than one level, and no walk over a
/// value takes more than this for a level.
const STACK_BYTES_PER_STEP: usize = 512;

/// Steps allowed for a conversation of `input_bytes`.
pub(super) fn render_fuel(input_bytes: usize) -> u64 {
    RENDER_FUEL.saturating_add(FUEL_PER_INPUT_BYTE.saturating_mul(input_bytes as u64))
}

/// Stack reserved for a rendering of at most `fuel` steps.
pub(super) fn render_stack_bytes(fuel: u64) -> usize {
    COMPILE_STACK_BYTES.saturating_add(STACK_BYTES_PER_STEP.saturating_mul(fuel as usize))
}

/// Runs `work` on a thread with `stack_bytes` of stack and waits for it.
pub(super) fn on_deep_stack<T: Send>(
    stack_bytes: usize,
    work: impl FnOnce() -> Result<T, TemplateError> + Send,
) -> Result<T, TemplateError> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("chat template".into()).stack_size(stack_bytes);
        let worker = builder.spawn_scoped(scope, work).map_err(|error| TemplateError::Engine {
            reason: format!("cannot reserve {stack_bytes} bytes of stack: {error}"),
        })?;
        let panicked = || TemplateError::Engine { reason: "the engine panicked".into() };
        worker.join().unwrap_or_else(|_| Err(panicked()))
    })
}
