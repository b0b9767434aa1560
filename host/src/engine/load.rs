//! From options to a running engine: everything is checked and planned before the first large
//! allocation.

use std::path::Path;
use std::sync::Arc;

use config::{Config, KvDtype as KvSetting, Toggle};

use super::model::{MappedDecoder, OwnVocabulary, Vocabulary};
use super::placement::{self, Gpu};
use super::spill;
use super::{
    Engine, EngineError, EngineOptions, LoadProgress, MAX_CONCURRENT, ModelInfo, Parts, Pooling,
};
use crate::checkpoint::{Checkpoint, Metadata};
use crate::engine::scheduler::Limits;
use crate::kv::{MAX_GROUPS, pages_for};
use crate::layers::Decoder;
use crate::layers::decoder::{BatchLimits, Placement};
use crate::layers::rope::RopeSpec;
use crate::models::{self, DecoderSpec};
use crate::ops::cpu::CpuOps;
use crate::ops::cuda::{CudaOps, CudaOptions, ModelShape, Room};
use crate::ops::{KvDtype, Ops, SampleLimits};
use crate::plan::{self, ActivationBytes, Demand, DeviceDemand, LayerKv, MemoryPlan};
use crate::text::template::BUILTIN_NAMES;
use crate::text::{ChatTemplate, Tokenizer};
use crate::weights::weight_bytes;

/// Rows of a prefill step when nobody chose: enough to keep a CPU's multiplications busy, few
/// enough that a cancelled prompt ends soon.
const PREFILL_CHUNK: usize = 512;

/// The same on a GPU: enough for every multiprocessor to have tiles of each product.
const GPU_PREFILL_CHUNK: usize = 2048;

/// Rows of prompts in a step in which others decode: about the time that a step of many sequences takes
/// by itself, so that nobody's next token comes much later because somebody came.
const MIXED_ROWS: usize = 32;

/// The same on a GPU.
const GPU_MIXED_ROWS: usize = 64;

/// Rows of a step on a GPU when the whole prompt is to be one: a launch counts them in 16 bits.
const GPU_MAX_ROWS: usize = 32_768;

/// Rows whose logits are computed in one step, at most or one for each sequence; evaluations want
/// those of every row.
const LOGIT_ROWS: usize = 64;

/// Most CPU threads, as for `runtime.num_cpu_threads`.
const MAX_THREADS: usize = 4096;

pub(super) fn load(
    options: &EngineOptions,
    progress: &mut dyn LoadProgress,
) -> Result<Engine, EngineError> {
    let config = &options.config;
    let mut notices = vec![];
    let kv_dtype = kv_dtype(config)?;
    let sequences = sequences(options)?;
    check_template_name(&options.chat_template)?;

    let checkpoint = Checkpoint::open(&options.model)?;
    let (family, spec) = models::describe(&checkpoint, &config.rope)?;
    // Opening a device takes a good part of a second: what is wrong with the rest is told before.
    let (gpu, notice) = placement::choose(options)?;
    notices.extend(notice);
    placement::check_toggles(config, gpu.is_some())?;
    if let Some(gpu) = &gpu {
        notices.extend(check_shape(&spec, kv_dtype, config.runtime.exact, gpu)?);
    }
    let spill = spill::plan(
        config,
        &spec,
        parameters(&checkpoint),
        kv_dtype,
        gpu.as_ref().map(spill::cycles),
    );
    notices.extend(spill.notice.clone());
    let spill_bytes = spill.bytes;
    let demanded =
        Demanded { checkpoint: &checkpoint, spec: &spec, kv_dtype, sequences, spill_bytes };
    let plan = plan_memory(options, &demanded, gpu.as_ref())?;
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
    let placements = placements(config, gpu, threads, &plan, spec.layers.len())?;
    let num_layers = spec.layers.len();
    let limits = Limits {
        max_seq_len: plan.max_seq_len,
        max_running: sequences,
        batch_rows: plan.max_batch_rows,
        mixed_rows: mixed_rows(config, plan.device_layers == num_layers),
        logit_rows: logit_rows(plan.max_batch_rows, sequences),
        reserve_tokens: config.runtime.admission_decode_tokens as usize,
        host_slots: spill.slots,
        prefix_reuse: spec.prefix_reuse(),
        rope_switch: spec.ropes.iter().find_map(RopeSpec::switches_at),
        rope_follows_length: spec
            .ropes
            .iter()
            .any(|rope| rope.depends_on_length() && rope.switches_at().is_none()),
    };
    let pooling = Pooling::of(&checkpoint)?;
    let device = placements.iter().map(|p| p.ops.name()).collect::<Vec<_>>().join(" and ");
    let info = describe(&checkpoint, family.name, &spec, &plan, pooling, device);
    let batch = BatchLimits { rows: limits.batch_rows, logit_rows: limits.logit_rows, sequences };
    let mut decoder = Decoder::load(&checkpoint, family.name, spec, &placements, batch, progress)?;
    let sequence_pages = pages_for(plan.max_seq_len);
    decoder.allocate_kv(&plan.kv_groups, spill.slots, sequence_pages, kv_dtype)?;
    decoder.reserve_sampling()?;
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
        max_waiting: options.max_waiting,
    };
    Engine::start(model, parts)
}

/// Refuses a model that the kernels do not compute.
fn check_shape(
    spec: &DecoderSpec,
    kv_dtype: KvDtype,
    is_exact: bool,
    gpu: &Gpu,
) -> Result<Vec<String>, EngineError> {
    let shape = model_shape(spec);
    let refused = |what| EngineError::Unsupported {
        what: format!("{what}: this model on a GPU"),
        reason: "--gpu-layers 0 computes it on the CPU".to_owned(),
    };
    let mut notices = shape.check(kv_dtype, is_exact).map_err(refused)?;
    if gpu.layers.is_none_or(|layers| layers >= spec.layers.len()) {
        notices.extend(shape.sampling_notice());
    }
    Ok(notices)
}

fn model_shape(spec: &DecoderSpec) -> ModelShape {
    ModelShape {
        hidden_size: spec.hidden_size,
        intermediate_size: spec.intermediate_size,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        vocab_size: spec.vocab_size,
    }
}

/// The backends and their layers.
fn placements(
    config: &Config,
    gpu: Option<Gpu>,
    threads: usize,
    plan: &MemoryPlan,
    num_layers: usize,
) -> Result<Vec<Placement>, EngineError> {
    let exact = config.runtime.exact;
    let mut placements = vec![];
    if let Some(gpu) = gpu.filter(|_| plan.device_layers > 0) {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let graphs = config.runtime.cuda_graphs != Toggle::Never;
        let deterministic = config.runtime.deterministic;
        let options = CudaOptions { exact, deterministic, graphs, threads };
        let ops = CudaOps::new(gpu.context, options)?;
        placements.push(Placement { ops: Arc::new(ops), layers: plan.device_layers });
    }
    if plan.device_layers < num_layers {
        let ops: Arc<dyn Ops> = Arc::new(CpuOps::new(threads, exact));
        placements.push(Placement { ops, layers: num_layers - plan.device_layers });
    }
    Ok(placements)
}

/// Sequences that are computed together.
fn sequences(options: &EngineOptions) -> Result<usize, EngineError> {
    let (what, sequences) = match options.config.runtime.max_batch_size {
        0 => ("--max-concurrent", options.max_concurrent),
        sequences => ("runtime.max_batch_size =", sequences as usize),
    };
    if (1..=MAX_CONCURRENT).contains(&sequences) {
        return Ok(sequences);
    }
    Err(EngineError::Setting {
        what: format!("{what} {sequences}"),
        reason: format!("expected 1 to {MAX_CONCURRENT} requests computed together"),
    })
}

/// Rows of logits of a step of `rows` rows.
fn logit_rows(rows: usize, sequences: usize) -> usize {
    rows.min(LOGIT_ROWS.max(sequences))
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
            reason: "keys and values are kept in \"fp16\" or \"fp32\"".to_owned(),
        }),
    }
}

/// Rows of a prefill step; `None` takes a whole prompt.
fn prefill_chunk(config: &Config, gpu: bool) -> Result<Option<usize>, EngineError> {
    match (usize::try_from(config.runtime.prefill_chunk_size), gpu) {
        (Err(_), false) => Ok(Some(PREFILL_CHUNK)),
        (Err(_), true) => Ok(Some(GPU_PREFILL_CHUNK)),
        (Ok(0), false) => Ok(None),
        (Ok(0), true) => Ok(Some(GPU_MAX_ROWS)),
        (Ok(rows), true) if rows > GPU_MAX_ROWS => Err(EngineError::Setting {
            what: format!("runtime.prefill_chunk_size = {rows}"),
            reason: format!("a step on a GPU has at most {GPU_MAX_ROWS} rows"),
        }),
        (Ok(rows), _) => Ok(Some(rows)),
    }
}

/// Rows of prompts in a step in which others decode.
fn mixed_rows(config: &Config, gpu: bool) -> usize {
    match usize::try_from(config.runtime.prefill_chunk_decode_cap) {
        Err(_) if gpu => GPU_MIXED_ROWS,
        Err(_) => MIXED_ROWS,
        Ok(0) => usize::MAX,
        Ok(rows) => rows,
    }
}

/// What memory is planned for.
struct Demanded<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a DecoderSpec,
    kv_dtype: KvDtype,
    sequences: usize,
    spill_bytes: u64,
}

fn plan_memory(
    options: &EngineOptions,
    demanded: &Demanded,
    gpu: Option<&Gpu>,
) -> Result<MemoryPlan, EngineError> {
    let config = &options.config;
    let &Demanded { checkpoint, spec, kv_dtype, sequences, spill_bytes } = demanded;
    let of_rows = |row_bytes: u64, rows: usize| row_bytes.saturating_mul(rows as u64);
    let layers = |rows| of_rows(spec.stage_row_bytes() + spec.cpu_row_bytes(), rows);
    let logits = |rows: usize| of_rows(spec.logit_row_bytes(), logit_rows(rows, sequences));
    let room = gpu.map(|gpu| Room {
        shape: model_shape(spec),
        pairs: spec.ropes.iter().map(RopeSpec::pairs).collect(),
        kv_dtype,
        is_exact: config.runtime.exact,
        multiprocessors: gpu.context.device().multiprocessors,
    });
    // Rotations, the logits that samplers read, and what a GPU copies from and to.
    let host_bytes = |rows: usize| {
        let copies = of_rows(4 * spec.vocab_size as u64, logit_rows(rows, sequences));
        let staging = room.as_ref().map_or(0, |room| room.host_bytes(rows));
        of_rows(spec.rotation_row_bytes(), rows).saturating_add(copies).saturating_add(staging)
    };
    // The numbers of all sequences' pages, as a GPU copies them.
    let page_numbers = |tokens| {
        let pages = room.as_ref().map_or(0, |_| 4 * pages_for(tokens) as u64);
        of_rows(pages.saturating_mul(MAX_GROUPS as u64), sequences)
    };
    let sequence_bytes =
        |tokens| spec.rotation_table_bytes(tokens).saturating_add(page_numbers(tokens));
    let heads = spec.kv_shape();
    let kv_layers: Vec<LayerKv> =
        spec.layers.iter().map(|layer| LayerKv { heads, window: layer.window }).collect();
    let device_layers = |rows| {
        let beside = room.as_ref().map_or(0, |room| room.step_bytes(rows));
        of_rows(spec.stage_row_bytes(), rows).saturating_add(beside)
    };
    let device_logits = |rows: usize| {
        let limits = SampleLimits { rows: sequences, slots: sequences, vocab: spec.vocab_size };
        logits(rows).saturating_add(Room::sampling_bytes(&limits))
    };
    let device = match gpu {
        Some(gpu) => Some(DeviceDemand {
            name: &gpu.context.device().name,
            free_bytes: gpu.context.memory().map_err(EngineError::Gpu)?.free_bytes as u64,
            layers: gpu.layers,
            activations: ActivationBytes { layers: &device_layers, logits: &device_logits },
            sequence_bytes: &page_numbers,
        }),
        None => None,
    };
    let from_config = |n: u32| (n > 0).then_some(n as usize);
    let demand = Demand {
        weights: &weight_bytes(checkpoint, spec)?,
        kv_layers: &kv_layers,
        kv_dtype,
        activations: ActivationBytes { layers: &layers, logits: &logits },
        host_bytes: &host_bytes,
        sequence_bytes: &sequence_bytes,
        spill_bytes,
        prefill_chunk: prefill_chunk(config, gpu.is_some())?,
        sequences,
        trained_context: spec.context_len,
        max_seq_len: options.max_seq_len.or(from_config(config.runtime.max_seq_len)),
        min_kv_tokens: options.min_kv_tokens,
        kv_pages: from_config(config.kv_cache.max_blocks),
        free_bytes: plan::free_bytes(),
        device,
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

/// Elements of all tensors.
fn parameters(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().iter().fold(0u64, |sum, tensor| {
        let elements = tensor.shape.iter().fold(1u64, |n, &dim| n.saturating_mul(dim as u64));
        sum.saturating_add(elements)
    })
}

fn describe(
    checkpoint: &Checkpoint,
    architecture: &str,
    spec: &DecoderSpec,
    plan: &MemoryPlan,
    pooling: Pooling,
    device: String,
) -> ModelInfo {
    let (tensors, parameters) = (checkpoint.tensors(), parameters(checkpoint));
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
        pooling,
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
