//! What is wrong, who is told of it, and how.
//!
//! [`conditions()`] says what is wrong *now*; `lb status` shows that list and nothing else, and so
//! does [`engine::Engine`], which compares it with what each target was told and says what to send
//! next. Both are pure: time and state are arguments. The thin edges are [`deliver`], which sends
//! one message to one target, and [`notifier`], the thread in which all of it runs: whatever a
//! target does, the control loop and probes do not wait for it.

mod clock;
pub mod conditions;
pub mod deliver;
pub mod engine;
mod kind;
pub mod latency;
pub mod memory;
pub mod message;
pub mod notifier;
pub mod share;
mod template;

pub use clock::Clock;
pub use conditions::conditions;
pub use kind::{Kind, Severity};
pub use template::Template;
