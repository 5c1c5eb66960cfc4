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
    // Services that no header tells are the whole file's matter, even if there are none.
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
    use crate::config::{lower, parse};

    const NODE: &str = "[node]\ninterfaces = [\"eth0\"]\n";

    fn service(number: usize) -> String {
        format!(
            "[[service]]\nname = \"s{number}\"\nmode = \"nat\"\nlisten = [\"192.0.2.1:{}/tcp\"]\n\
             backends = [{{ name = \"a\", address = \"10.0.0.1\" }}] # {}\n",
            number + 1,
            "-".repeat(200)
        )
    }

    #[test]
    fn a_file_shared_among_threads_is_what_it_is_as_a_whole() {
        let services: String = (0..6_000).map(service).collect();
        let source = format!("{NODE}{services}");
        assert!(source.len() > SHARE, "worth a second thread");
        let config = read(&source).unwrap();
        assert_eq!(config.services.len(), 6_000);
        assert_eq!(config, lower::lower(raw::read(&source).unwrap()).config);
        // What is wrong in another thread's share is found in the whole file.
        let wrong = source.replace("192.0.2.1:5999/tcp", "192.0.2.1:5999/sctp");
        assert!(read(&wrong).is_none());
        let told = parse(&wrong, "lb.toml").unwrap_err();
        assert!(told.items().iter().any(|item| item.line == 2 + 5 * 5_998 + 4), "{told}");
    }

    #[test]
    fn what_may_not_be_the_same_is_left_to_the_whole_file() {
        let one = service(0);
        let sound = [
            format!("{NODE}{one}"),
            format!("{one}{NODE}"),
            format!("# no node\n{one}{}", service(1)),
            format!("{NODE}{one}[service.health]\nnone = true\n{}", service(1)),
            format!("{NODE}{one}  {}", service(1)),
            NODE.to_owned(),
            String::new(),
        ];
        for source in sound {
            let whole = lower::lower(raw::read(&source).unwrap()).config;
            assert_eq!(read(&source), Some(whole), "{source}");
        }
        let doubtful = [
            format!("{NODE}{one}{NODE}"),
            format!("{NODE}{one}[node.limits]\nbackends = 16\n"),
            format!("service = []\n{one}"),
            format!("{NODE}  {one}"),
            format!("{NODE}\"\"\"\n{one}\"\"\"\n"),
            format!("{NODE}{one}x = '''\n{one}'''\n"),
            format!("{NODE}{one}x = [\n{one}]\n"),
        ];
        for source in doubtful {
            assert_eq!(read(&source), None, "{source}");
        }
    }

    #[test]
    fn alerts_are_read_wherever_they_are_together() {
        let alert = |name: &str| format!("[[alert]]\nexec = [\"/bin/{name}\"]\n");
        let ([one, two], [a, b]) = ([service(0), service(1)], [alert("a"), alert("b")]);
        let sound = [
            (format!("{NODE}{a}{b}{one}{two}"), 2),
            (format!("{NODE}{one}{a}{two}"), 1),
            (format!("{one}{two}{a}{b}{NODE}"), 2),
        ];
        for (source, alerts) in sound {
            let whole = lower::lower(raw::read(&source).unwrap()).config;
            assert_eq!(whole.alerts.len(), alerts, "{source}");
            assert_eq!(read(&source), Some(whole), "{source}");
        }
        // Here and there they are read as a whole, if they are not an error.
        let apart = format!("{NODE}{a}{one}{b}");
        assert_eq!(read(&apart), None);
        assert_eq!(parse(&apart, "lb.toml").unwrap().alerts.len(), 2);
        let wrong = format!("alert = []\n{NODE}{one}{a}");
        assert_eq!(read(&wrong), None);
        assert!(parse(&wrong, "lb.toml").is_err());
    }
}
