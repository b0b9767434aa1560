//! From options to a running engine: everything is checked and planned before the first large
//! allocation.

use std::path::Path;
use std::sync::Arc;

use config::{Config, KvDtype as KvSetting, Toggle};

use super::model::{MappedDecoder, OwnVocabulary, Vocabulary};
use super::{Engine, EngineError, EngineOptions, LoadProgress, ModelInfo, Parts};
use crate::checkpoint::{Checkpoint, Metadata};
use crate::engine::scheduler::Limits;
use crate::layers::Decoder;
use crate::layers::decoder::BatchLimits;
use crate::layers::rope::RopeSpec;
use crate::models::{self, DecoderSpec};
use crate::ops::cpu::CpuOps;
use crate::ops::{KvDtype, Ops};
use crate::plan::{self, Demand, MemoryPlan};
use crate::text::template::BUILTIN_NAMES;
use crate::text::{ChatTemplate, Tokenizer};

/// Rows of a prefill step when nobody chose: enough to keep a CPU's multiplications busy, few
/// enough that a cancelled prompt ends soon.
const PREFILL_CHUNK: usize = 512;

/// Most rows whose logits are computed in one step; evaluations want those of every row.
const LOGIT_ROWS: usize = 64;

/// Most CPU threads, as for `runtime.num_cpu_threads`.
const MAX_THREADS: usize = 4096;

pub(super) fn load(
    options: &EngineOptions,
    progress: &mut dyn LoadProgress,
) -> Result<Engine, EngineError> {
    let config = &options.config;
    let mut notices = vec![];
    notices.extend(placement(options)?);
    refuse_gpu_settings(config)?;
    let kv_dtype = kv_dtype(config)?;
    check_template_name(&options.chat_template)?;

    let checkpoint = Checkpoint::open(&options.model)?;
    let (family, spec) = models::describe(&checkpoint, &config.rope)?;
    let plan = plan_memory(options, &checkpoint, &spec, kv_dtype)?;
    notices.extend(plan.notices.iter().cloned());
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?.map(Arc::new);
    if let Some(tokenizer) = &tokenizer {
        notices.extend(surplus_tokens(tokenizer, spec.vocab_size));
    }
    let template = template(&options.chat_template, &checkpoint, tokenizer.as_deref())?;
    if template.is_none() && options.chat_template == "auto" {
        notices.push("the model has no chat template: prompts are taken as they are".to_owned());
    }

    let threads = options.threads;
    if threads > MAX_THREADS {
        return Err(EngineError::Setting {
            what: format!("--threads {threads}"),
            reason: format!("expected 0 (all cores) to {MAX_THREADS}"),
        });
    }
    let ops: Arc<dyn Ops> = Arc::new(CpuOps::new(threads, config.runtime.exact));
    let limits = Limits {
        max_seq_len: plan.max_seq_len,
        batch_rows: plan.max_batch_rows,
        logit_rows: LOGIT_ROWS.min(plan.max_batch_rows),
        prefix_reuse: spec.prefix_reuse(),
        rope_switch: spec.ropes.iter().find_map(RopeSpec::switches_at),
    };
    let info = describe(&checkpoint, family.name, &spec, &plan, ops.name());
    let batch = BatchLimits { rows: limits.batch_rows, logit_rows: limits.logit_rows };
    let mut decoder = Decoder::load(&checkpoint, family.name, spec, ops, batch, progress)?;
    decoder.allocate_kv(plan.kv_pages, kv_dtype)?;
    // Weights that were converted on the way may be zeros of a file cut meanwhile.
    checkpoint.check_intact()?;

    let vocabulary = tokenizer
        .clone()
        .map(|tokenizer| Arc::new(OwnVocabulary::new(tokenizer)) as Arc<dyn Vocabulary>);
    let model = Box::new(MappedDecoder { decoder, checkpoint });
    let parts = Parts {
        info,
        tokenizer,
        template: template.map(Arc::new),
        vocabulary,
        plan,
        notices,
        limits,
    };
    Engine::start(model, parts)
}

/// Refuses what only a GPU can do; says so when the choice was left to the engine.
fn placement(options: &EngineOptions) -> Result<Option<String>, EngineError> {
    let on_cpu = "this build computes on the CPU only";
    let unsupported = |what: String, way_out: &str| EngineError::Unsupported {
        what,
        reason: format!("{on_cpu}; {way_out}"),
    };
    if let Some(device) = options.device {
        return Err(unsupported(format!("--device {device}"), "leave it out"));
    }
    match options.gpu_layers {
        0 => Ok(None),
        -1 => Ok(Some(format!("{on_cpu}: all layers run there"))),
        n if n > 0 => Err(unsupported(format!("--gpu-layers {n}"), "use 0 or leave it out")),
        n => Err(EngineError::Setting {
            what: format!("--gpu-layers {n}"),
            reason: "expected −1 (all), 0 (none) or a number of layers".to_owned(),
        }),
    }
}

/// `always` means "or fail, with the reason".
fn refuse_gpu_settings(config: &Config) -> Result<(), EngineError> {
    for (key, toggle) in [
        ("runtime.cuda_graphs", config.runtime.cuda_graphs),
        ("attention.mxfp4", config.attention.mxfp4),
        ("attention.fp8_fmha", config.attention.fp8_fmha),
        ("attention.fmha_sm120", config.attention.fmha_sm120),
    ] {
        if toggle == Toggle::Always {
            return Err(EngineError::Unsupported {
                what: format!("{key} = \"always\""),
                reason: "it concerns layers on a GPU, and this build computes on the CPU only"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

fn kv_dtype(config: &Config) -> Result<KvDtype, EngineError> {
    let (dtype, exact) = (config.kv_cache.dtype, config.runtime.exact);
    match dtype {
        KvSetting::Fp32 => Ok(KvDtype::F32),
        KvSetting::Auto if exact => Ok(KvDtype::F32),
        KvSetting::Auto => Ok(KvDtype::F16),
        KvSetting::Fp16 if exact => Err(EngineError::Setting {
            what: "kv_cache.dtype = \"fp16\" with runtime.exact = true".to_owned(),
            reason: "exact mode keeps the KV cache in F32; leave one of them out".to_owned(),
        }),
        KvSetting::Fp16 => Ok(KvDtype::F16),
        other => Err(EngineError::Unsupported {
            what: format!("kv_cache.dtype = {:?}", other.as_str()),
            reason: "the CPU keeps keys and values in \"fp16\" or \"fp32\"".to_owned(),
        }),
    }
}

fn plan_memory(
    options: &EngineOptions,
    checkpoint: &Checkpoint,
    spec: &DecoderSpec,
    kv_dtype: KvDtype,
) -> Result<MemoryPlan, EngineError> {
    let config = &options.config;
    // Linear in both: computed for one row each, so that hostile sizes saturate.
    let row_bytes = spec.activation_bytes(BatchLimits { rows: 1, logit_rows: 0 });
    let logit_row_bytes = spec.activation_bytes(BatchLimits { rows: 0, logit_rows: 1 });
    let host_copy = 4 * spec.vocab_size as u64;
    let activation_bytes = |rows: usize| {
        let logit_rows = rows.min(LOGIT_ROWS) as u64;
        let logits = logit_row_bytes.saturating_add(host_copy).saturating_mul(logit_rows);
        row_bytes.saturating_mul(rows as u64).saturating_add(logits)
    };
    let kv_heads = vec![spec.kv_shape(); spec.layers.len()];
    let weights = checkpoint.tensors().iter().map(|tensor| tensor.bytes as u64);
    let from_config = |n: u32| (n > 0).then_some(n as usize);
    let demand = Demand {
        weight_bytes: weights.fold(0, u64::saturating_add),
        kv_heads: &kv_heads,
        kv_dtype,
        activation_bytes: &activation_bytes,
        prefill_chunk: match config.runtime.prefill_chunk_size {
            0 => None,
            n => Some(usize::try_from(n).unwrap_or(PREFILL_CHUNK)),
        },
        trained_context: spec.context_len,
        max_seq_len: options.max_seq_len.or(from_config(config.runtime.max_seq_len)),
        min_kv_tokens: options.min_kv_tokens,
        kv_pages: from_config(config.kv_cache.max_blocks),
        free_bytes: plan::free_bytes(),
    };
    Ok(plan::plan(&demand)?)
}

/// A token that the embedding does not have can only be refused. Embedding rows beyond the
/// vocabulary are padding, and usual.
fn surplus_tokens(tokenizer: &Tokenizer, vocab_size: usize) -> Option<String> {
    let tokens = tokenizer.vocab_size();
    (tokens > vocab_size).then(|| {
        format!(
            "the tokenizer has {tokens} tokens and the model {vocab_size}: prompts with the others \
             are refused"
        )
    })
}

fn check_template_name(name: &str) -> Result<(), EngineError> {
    if name == "auto" || name == "none" || BUILTIN_NAMES.contains(&name) {
        return Ok(());
    }
    let known = format!("auto, none, {}", BUILTIN_NAMES.join(", "));
    Err(EngineError::UnknownTemplate { name: name.to_owned(), known })
}

/// The template of a name that [`check_template_name`] passed.
fn template(
    name: &str,
    checkpoint: &Checkpoint,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<ChatTemplate>, EngineError> {
    if name == "none" {
        return Ok(None);
    }
    let Some(tokenizer) = tokenizer else {
        return match name {
            "auto" => Ok(None),
            _ => Err(EngineError::Setting {
                what: format!("--chat-template {name}"),
                reason: "the model has no vocabulary, so its prompts are token ids".to_owned(),
            }),
        };
    };
    let spelling = |id: Option<u32>| {
        id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned()).unwrap_or_default()
    };
    let (bos, eos) = (spelling(tokenizer.bos()), spelling(tokenizer.eos()));
    if name != "auto" {
        return Ok(ChatTemplate::builtin(name, &bos, &eos));
    }
    let source = match checkpoint.metadata() {
        Metadata::Gguf(metadata) => metadata.str("tokenizer.chat_template")?,
        Metadata::HuggingFace(metadata) => metadata.chat_template.as_deref(),
    };
    Ok(source.map(|source| ChatTemplate::from_source(source, &bos, &eos)).transpose()?)
}

fn describe(
    checkpoint: &Checkpoint,
    architecture: &str,
    spec: &DecoderSpec,
    plan: &MemoryPlan,
    device: String,
) -> ModelInfo {
    let tensors = checkpoint.tensors();
    let parameters = tensors.iter().fold(0u64, |sum, tensor| {
        let elements = tensor.shape.iter().fold(1u64, |n, &dim| n.saturating_mul(dim as u64));
        sum.saturating_add(elements)
    });
    let description =
        format!("{architecture} {} {}", count_text(parameters), main_format(checkpoint));
    ModelInfo {
        name: name(checkpoint),
        architecture: architecture.to_owned(),
        description,
        parameters,
        weight_bytes: tensors.iter().map(|tensor| tensor.bytes as u64).sum(),
        vocab_size: spec.vocab_size,
        num_layers: spec.layers.len(),
        hidden_size: spec.hidden_size,
        max_seq_len: plan.max_seq_len,
        device,
    }
}

/// What the model calls itself, else its file's name.
fn name(checkpoint: &Checkpoint) -> String {
    let own = match checkpoint.metadata() {
        Metadata::Gguf(metadata) => metadata.str("general.name").ok().flatten(),
        Metadata::HuggingFace(_) => None,
    };
    let file = |path: &Path| {
        // A directory may be given as `.` or with a slash at its end.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    own.map(str::to_owned).unwrap_or_else(|| file(checkpoint.path()))
}

/// The format that most bytes are in.
fn main_format(checkpoint: &Checkpoint) -> &'static str {
    let mut totals: Vec<(&'static str, usize)> = vec![];
    for tensor in checkpoint.tensors() {
        let name = tensor.format.name();
        match totals.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes = bytes.saturating_add(tensor.bytes),
            None => totals.push((name, tensor.bytes)),
        }
    }
    totals.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("", |(name, _)| name)
}

/// `135M`, `8.0B`.
fn count_text(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.0}M", n / 1e6),
        n => format!("{:.0}K", n / 1e3),
    }
}

#[cfg(test)]
mod tests;
