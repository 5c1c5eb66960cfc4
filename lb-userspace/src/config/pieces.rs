//! A file in which nothing is wrong, read service by service.
//!
//! Reading a whole file takes forty times its size, which of a million backends is too much. But a
//! file is a sequence of `[[service]]` tables, each of which is a document of its own: so it is cut
//! before each of them, and no more than one for each processor is in memory as TOML at a time.
//!
//! This can only say yes. Whatever is wrong, or not surely the same as in the whole file, is left
//! to the reading of the whole, which knows where in the file it is.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use super::lower::lower_sound;
use super::model::{Config, Node, Service};
use super::raw;

/// What begins a piece, at the start of a line. Within a string or an array of several lines it
/// does not, but then the piece before has no end and is no document.
const HEADER: &str = "\n[[service]]";

/// Bytes that are worth a thread.
const SHARE: usize = 1 << 20;

/// The configuration, not yet checked; `None` if the whole file must be read.
pub(super) fn read(source: &str) -> Option<Config> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let pieces: Vec<&str> = pieces(source).collect();
    let head = Part::of(pieces.get(..1)?)?;
    // Services that no header tells are the whole file's matter.
    if !source.starts_with(HEADER.trim_start()) && !head.services.is_empty() {
        return None;
    }
    let rest = pieces.get(1..)?;
    let threads = processors.min(source.len().div_ceil(SHARE));
    let (ours, others) = rest.split_at(rest.len().div_ceil(threads.max(1)));
    let whole = thread::scope(|scope| {
        let shares = others.chunks(ours.len().max(1));
        let spawn =
            |share| thread::Builder::new().spawn_scoped(scope, move || Part::of(share)).ok();
        let reading = shares.map(spawn).collect::<Option<Vec<_>>>()?;
        let begun = head.and(Part::of(ours)?)?;
        reading.into_iter().try_fold(begun, |part, next| part.and(next.join().ok()??))
    })?;
    Some(Config { node: whole.node.unwrap_or_default(), services: whole.services })
}

/// What some of the pieces say.
#[derive(Default)]
struct Part {
    node: Option<Node>,
    services: Vec<Arc<Service>>,
}

impl Part {
    fn of(pieces: &[&str]) -> Option<Self> {
        pieces.iter().try_fold(Self::default(), |part, piece| {
            let (node, services) = lower_sound(raw::read(piece).ok()?)?;
            part.and(Self { node, services })
        })
    }

    /// `None` if both have a [node]: whether they may is the whole file's matter.
    fn and(mut self, next: Self) -> Option<Self> {
        if self.node.is_some() && next.node.is_some() {
            return None;
        }
        self.node = self.node.or(next.node);
        self.services.extend(next.services);
        Some(self)
    }
}

/// The source, cut before each header.
fn pieces(source: &str) -> impl Iterator<Item = &str> {
    let starts = source.match_indices(HEADER).map(|(at, _)| at + 1);
    let ends = starts.clone().chain([source.len()]);
    std::iter::once(0).chain(starts).zip(ends).filter_map(|(start, end)| source.get(start..end))
}
