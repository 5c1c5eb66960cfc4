//! A file in which nothing is wrong, read service by service.
//!
//! Reading a whole file takes forty times its size, which of a million backends is too much. But a
//! file is a sequence of `[[service]]` tables, each of which is a document of its own: so it is cut
//! before each of them, and no more than one for each processor is in memory as TOML at a time.
//!
//! This can only say yes. Whatever is wrong, or not surely the same as in the whole file, is left
//! to the reading of the whole, which knows where in the file it is.

use std::num::NonZero;
use std::thread;

use super::lower::{Part, lower_sound};
use super::model::Config;
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
    if !source.starts_with(HEADER.trim_start()) && head.services.is_some() {
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
    Some(Config {
        node: whole.node.unwrap_or_default(),
        alerts: whole.alerts.unwrap_or_default(),
        services: whole.services.unwrap_or_default(),
    })
}

impl Part {
    fn of(pieces: &[&str]) -> Option<Self> {
        pieces
            .iter()
            .try_fold(Self::default(), |part, piece| part.and(lower_sound(raw::read(piece).ok()?)?))
    }

    /// `None` if both have a [node], or alerts: whether they may is the whole file's matter.
    fn and(self, next: Self) -> Option<Self> {
        let services = match (self.services, next.services) {
            (Some(mut services), Some(next)) => {
                services.extend(next);
                Some(services)
            }
            (services, next) => services.or(next),
        };
        let (node, alerts) = (one(self.node, next.node)?, one(self.alerts, next.alerts)?);
        Some(Self { node, alerts, services })
    }
}

/// Whichever is there; `None` if both are.
fn one<T>(first: Option<T>, second: Option<T>) -> Option<Option<T>> {
    match (first, second) {
        (Some(_), Some(_)) => None,
        (first, second) => Some(first.or(second)),
    }
}

/// The source, cut before each header.
fn pieces(source: &str) -> impl Iterator<Item = &str> {
    let starts = source.match_indices(HEADER).map(|(at, _)| at + 1);
    let ends = starts.clone().chain([source.len()]);
    std::iter::once(0).chain(starts).zip(ends).filter_map(|(start, end)| source.get(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_whole;

    #[test]
    fn what_belongs_to_the_whole_file_is_read_wherever_it_is_or_not_at_all() {
        let service = |s: u8| {
            format!(
                "[[service]]\nname = \"s{s}\"\nmode = \"nat\"\nlisten = [\"192.0.2.{s}:80/tcp\"]\n\
                 backends = [{{ name = \"b\", address = \"10.0.0.{s}\" }}]\n"
            )
        };
        let alert = |name: &str| format!("[[alert]]\nexec = [\"/bin/{name}\"]\n");
        let two = service(1) + &service(2);
        let node = "[node]\ninterfaces = [\"eth0\"]\n";
        for (source, alerts) in [
            (format!("{node}{}{}{two}", alert("a"), alert("b")), 2),
            (format!("{node}{}{}{}", service(1), alert("a"), service(2)), 1),
            (format!("{two}{node}{}{}", alert("a"), alert("b")), 2),
            (format!("{node}{two}"), 0),
        ] {
            let config = read(&source).expect("nothing is wrong with it");
            assert_eq!(config.alerts.len(), alerts, "{source}");
            assert_eq!(read_whole(&source, "lb.toml").unwrap(), config, "{source}");
        }
        for source in [
            format!("{node}{}{two}{}", alert("a"), alert("b")),
            format!("alert = []\n{node}{two}{}", alert("a")),
            format!("service = []\n{node}{two}"),
            format!("{node}{two}{node}"),
        ] {
            assert!(read(&source).is_none(), "{source}");
        }
    }
}
