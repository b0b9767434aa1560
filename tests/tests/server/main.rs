//! `imp-server` as its clients meet it: the real binary on a tiny model, over sockets.

mod answers;
mod dialects;
mod embeddings;
mod faults;
mod fields;
mod guards;
mod hostile;
mod life;
mod support;
