//! HTTP itself: connections, bodies, guards, routes. Knows no dialect but the shape of its errors.

pub mod body;
pub mod error;
pub mod guard;
mod io;
pub mod listen;
pub mod reply;
pub mod route;

pub use error::{ApiError, Dialect};
pub use reply::Body;
