//! The tower side: what wraps a service, its future and its body, and what wraps a task.

mod body;
mod entrance;
mod entry;
mod future;
mod layer;
mod service;
mod task;

pub use self::body::StallBody;
pub use self::future::StallFuture;
pub use self::layer::StallLayer;
pub use self::service::StallService;
pub use self::task::StallTask;
