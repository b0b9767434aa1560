//! The keys of imp.conf: to add one, add a documented row.

use std::path::PathBuf;

use crate::table::schema;
use crate::value::words;

schema! {
    /// How a model runs.
    runtime: Runtime {
        /// Compute as the reference does: F32 activations and KV cache, no approximation.
        /// Slower; for comparing with other implementations.
        exact: bool = false;
        /// Give the same tokens whatever is computed beside a request and whatever ran before. The CPU
        /// always does; on a GPU, where the fastest kernels round by the rows of a step, it takes the
        /// same ones for any number of rows then: slower where they are few.
        deterministic: bool = false;
        /// Longest context in tokens; 0 takes what the model and the memory allow.
        max_seq_len: u32 = 0, in 0..=16777216;
        /// Requests computed together; 0 takes as many as the program says: one of imp-cli, as many as
        /// --max-concurrent of a server.
        max_batch_size: u32 = 0, in 0..=1024;
        /// Tokens of its answer that there must be room for in the cache before a request begins; those
        /// of longer answers are found while it runs, if need be by letting the youngest begin again.
        admission_decode_tokens: u32 = 256, in 1..=16777216;
        /// Prompt tokens computed in one step; -1 chooses by device, 0 takes the whole prompt, on a GPU
        /// up to 32768 tokens of it.
        prefill_chunk_size: i32 = -1, in -1..=1048576;
        /// Prompt tokens, of all prompts together, in a step in which others wait for their next token: fewer
        /// delay those less, more end prompts sooner. A multiple where there is more than a prompt for
        /// each eight of the others. -1 chooses by device, 0 sets no bound of its own.
        prefill_chunk_decode_cap: i32 = -1, in -1..=1048576;
        /// CPU threads; 0 uses all cores.
        num_cpu_threads: u32 = 0, in 0..=4096;
        /// Record decode steps of layers on a GPU as CUDA graphs: "auto" does, and "always" is an error
        /// where no layer is on a GPU.
        cuda_graphs: Toggle = Toggle::Auto;
    }

    /// The cache of keys and values.
    kv_cache: KvCache {
        /// Type of its elements; "auto" is F16, or F32 with runtime.exact. Only "fp16" and "fp32" are
        /// available: the others are refused.
        dtype: KvDtype = KvDtype::Auto;
        /// Pages in the pool, of 16 tokens each; 0 takes those of the longest context. Layers with a sliding
        /// window take what their windows need, where that is less.
        max_blocks: u32 = 0, in 0..=268435456;
        /// Page-locked memory of the host, in MiB, for the keys and values of requests that had to give
        /// their pages to others: they go on from there instead of being computed again, where
        /// that takes less time and all pages of a request fit. 0 computes again; so does a model that
        /// is not on a GPU.
        host_spill_mb: u32 = 0, in 0..=1048576;
    }

    /// Rotary position scaling, in place of the model's own.
    rope: RopeOverride {
        /// Kind of scaling; "" keeps the model's, and then the other keys must keep their defaults.
        scaling: RopeScaling = RopeScaling::Model;
        /// Context extension: trained positions are stretched by this factor.
        factor: f32 = 1.0, in 1.0..=1024.0;
        /// Context length of training in tokens; 0 takes the model's.
        orig_ctx: u32 = 0, in 0..=16777216;
        /// Factor on the attention scale that YaRN computes.
        attn_factor: f32 = 1.0, in 0.0..=1024.0;
        /// YaRN: rotations over the trained context from which a dimension is left alone.
        beta_fast: f32 = 32.0, in 0.0..=1048576.0;
        /// YaRN: rotations over the trained context up to which a dimension is fully interpolated.
        beta_slow: f32 = 1.0, in 0.0..=1048576.0;
    }

    /// Prefill attention kernels on a GPU. There is one, in F16, for every architecture: these choose
    /// nothing yet, and "always" is refused.
    attention: Attention {
        /// Fused attention in MXFP4. Not available.
        mxfp4: Toggle = Toggle::Auto;
        /// Fused attention in FP8. Not available.
        fp8_fmha: Toggle = Toggle::Auto;
        /// Fused attention written for sm_120. Not available.
        fmha_sm120: Toggle = Toggle::Auto;
    }

    /// Where files are.
    paths: Paths {
        /// Directory in which models are looked up by name; "" for none.
        models: PathBuf = PathBuf::new();
    }

    /// What is reported on standard error.
    diagnostics: Diagnostics {
        /// Least important messages shown.
        log_level: LogLevel = LogLevel::Info;
    }
}

words! {
    /// Whether to use a feature.
    Toggle {
        /// Where it is supported and pays.
        Auto = "auto",
        /// Or fail, with the reason.
        Always = "always",
        /// Not at all.
        Never = "never",
    }
}

words! {
    /// Element type of the KV cache.
    KvDtype {
        /// F16, or F32 in exact mode.
        Auto = "auto",
        /// IEEE half precision.
        Fp16 = "fp16",
        /// IEEE single precision.
        Fp32 = "fp32",
        /// E4M3.
        Fp8 = "fp8",
        /// Eight-bit integers with a scale a row.
        Int8 = "int8",
        /// Four-bit integers with a scale a group.
        Int4 = "int4",
        /// E2M1 with E4M3 scales.
        Nvfp4 = "nvfp4",
        /// E2M1 with power-of-two scales.
        Mxfp4 = "mxfp4",
        /// Polar quantization with a residual sketch.
        Turboquant = "turboquant",
    }
}

words! {
    /// Kind of rotary position scaling.
    RopeScaling {
        /// What the model declares.
        Model = "",
        /// Positions divided by the factor.
        Linear = "linear",
        /// Interpolation by dimension (Peng et al. 2023).
        Yarn = "yarn",
    }
}

words! {
    /// Importance of a message, the most important first.
    #[derive(PartialOrd, Ord)]
    LogLevel {
        /// Failures.
        Error = "error",
        /// Fallbacks and doubtful input, too.
        Warn = "warn",
        /// What a user should know about a run, too.
        Info = "info",
        /// Decisions taken at load, too.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}
