//! The engine of imp: from a checkpoint on disk to tokens.
//!
//! Entry points: [`engine::Engine::load`] opens a model and starts the engine thread;
//! [`engine::Engine::submit`] queues a request and returns its events.
//!
//! Code map, in the direction data flows:
//!
//! | module | what it does |
//! |---|---|
//! | [`checkpoint`] | GGUF and SafeTensors files → metadata and tensors, memory-mapped |
//! | [`weights`] | tensor names and conversions → handles that a backend can multiply with |
//! | [`models`], [`layers`] | families as data: which layers, with which fields; the forward pass |
//! | [`ops`] | the operations a forward pass is made of, one implementation a device |
//! | [`cuda`] | GPUs through the NVIDIA driver: memory, streams, kernels, graphs |
//! | [`kv`] | pages and page tables of the key-value cache |
//! | [`plan`] | how much memory everything takes, decided before the first allocation |
//! | [`constrain`] | grammars: which text may be generated; tool choice; think budgets |
//! | [`engine`] | the thread that owns the device: commands in, events out |
//! | [`sampling`] | logits → token |
//! | [`program`] | what the programs around the engine share |
//! | [`text`] | tokenizer, streaming detokenisation, stop strings, chat templates, tool calls |
//!
//! What is deliberately not here is listed in `ARCHITECTURE.md` ("Invariants of absence").

#![warn(missing_docs)]

pub mod checkpoint;
pub mod constrain;
pub mod cuda;
pub mod engine;
pub mod kv;
pub mod layers;
pub mod models;
pub mod ops;
pub mod plan;
pub mod program;
pub mod sampling;
pub mod text;
pub mod weights;
