//! A file in which nothing is wrong, read service by service.
//!
//! Reading a whole file takes forty times its size, which of a million backends is too much. But a
//! file is a sequence of `[[service]]` tables, each of which is a document of its own: so it is cut
//! before each of them, and no more than one is in memory as TOML at a time.
//!
//! This can only say yes. Whatever is wrong, or not surely the same as in the whole file, is left
//! to the reading of the whole, which knows where in the file it is.

use super::lower::lower_sound;
use super::model::{Config, Node};
use super::raw;

/// What begins a piece, at the start of a line. Within a string or an array of several lines it
/// does not, but then the piece before has no end and is no document.
const HEADER: &str = "\n[[service]]";

/// The configuration, not yet checked; `None` if the whole file must be read.
pub(super) fn read(source: &str) -> Option<Config> {
    let mut node = None;
    let mut services = Vec::new();
    for (at, piece) in pieces(source).enumerate() {
        let (more_node, more) = lower_sound(raw::read(piece).ok()?)?;
        // A second [node], or services that no header tells, are the whole file's matter.
        let is_known = node.is_some() && more_node.is_some();
        let is_head = at == 0 && !piece.starts_with(HEADER.trim_start());
        if is_known || is_head && !more.is_empty() {
            return None;
        }
        node = node.or(more_node);
        services.extend(more);
    }
    Some(Config { node: node.unwrap_or_else(Node::default), services })
}

/// The source, cut before each header.
fn pieces(source: &str) -> impl Iterator<Item = &str> {
    let starts = source.match_indices(HEADER).map(|(at, _)| at + 1);
    let ends = starts.clone().chain([source.len()]);
    std::iter::once(0).chain(starts).zip(ends).filter_map(|(start, end)| source.get(start..end))
}
