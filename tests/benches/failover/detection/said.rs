//! What contenders say of servers in their logs, and when: read every millisecond, the same for all.

use std::{
    fs::File,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::contenders::Contender;

/// From one look to the next.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// A server's state, as a contender sees it from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Which of the contenders.
    pub(super) by: usize,
    /// Which of the servers.
    pub(super) of: usize,
    pub(super) is_up: bool,
    pub(super) at: Instant,
}

pub(super) struct Logs {
    files: Vec<(File, Vec<u8>)>,
}

impl Logs {
    /// From their present end on.
    pub(super) fn open(paths: &[&Path]) -> Result<Self> {
        let open = |path: &&Path| {
            let file = File::open(path).with_context(|| format!("no log {}", path.display()))?;
            Ok((file, Vec::new()))
        };
        let mut logs = Self { files: paths.iter().map(open).collect::<Result<_>>()? };
        logs.lines()?;
        Ok(logs)
    }

    /// What was said since the last look.
    pub(super) fn look(&mut self, contenders: &[Contender], servers: &[&str]) -> Result<Vec<Said>> {
        let lines = self.lines()?;
        let at = Instant::now();
        let mut said = Vec::new();
        for line in &lines {
            for (by, contender) in contenders.iter().enumerate() {
                for (of, server) in servers.iter().enumerate() {
                    let is_up = contender.said(line, server);
                    said.extend(is_up.map(|is_up| Said { by, of, is_up, at }));
                }
            }
        }
        Ok(said)
    }

    fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for (file, rest) in &mut self.files {
            file.read_to_end(rest)?;
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let text = String::from_utf8_lossy(&rest[..whole]);
            lines.extend(text.lines().map(str::to_owned));
            rest.drain(..whole);
        }
        Ok(lines)
    }
}
