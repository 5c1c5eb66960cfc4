//! A message as the input of a program, which has a process group of its own.
//!
//! The group is killed when the time is over, and when the program has ended: what it left running
//! in the background would pile up, message by message.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::late;
use crate::alert::message::Body;

/// The part of its error output that is repeated.
const MAX_SAID: u64 = 200;
/// How long what it said is waited for once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// A variable of the environment takes no more than 128 KiB (`MAX_ARG_STRLEN`).
const MAX_VARIABLE: usize = 8 << 10;

/// Runs a program with the message on its input; it must end with 0 within `timeout`.
pub(super) async fn run(
    command: &[String],
    body: &Body,
    input: Vec<u8>,
    timeout: Duration,
) -> Result<(), String> {
    let [program, arguments @ ..] = command else { return Err("there is no program".into()) };
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    for name in Body::FIELDS {
        let variable = format!("HOLDFAST_{}", name.to_uppercase());
        command.env(variable, variable_text(&body.field(name)));
    }
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let _group = Group(child.id());
    let fed = feed(&mut child, input);
    let limited = tokio::time::timeout(timeout, fed).await;
    let (status, said) = match limited {
        Err(_) => return Err(late(program, timeout)),
        Ok(ended) => ended.map_err(|error| format!("{program}: {error}"))?,
    };
    match status.success() {
        true => Ok(()),
        false if said.is_empty() => Err(format!("{program} failed: {status}")),
        false => Err(format!("{program} failed: {status}: {said}")),
    }
}

/// Gives it its input, and waits for its end; what it said of errors, one line.
async fn feed(
    child: &mut Child,
    input: Vec<u8>,
) -> std::io::Result<(std::process::ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program need not read what it is given.
            let _ = stdin.write_all(&input).await;
        }
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr.take(MAX_SAID);
            let _ = stderr.read_to_end(&mut said).await;
            // To the end, so that no program is stopped by a full pipe.
            let _ = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
        }
        said
    };
    let talk = async { tokio::join!(write, read).1 };
    tokio::pin!(talk);
    // What it left in the background may hold its pipes: its own end is what counts.
    let (status, said) = tokio::select! {
        said = &mut talk => (child.wait().await?, said),
        status = child.wait() => {
            let said = tokio::time::timeout(LAST_WORDS, talk).await;
            (status?, said.unwrap_or_default())
        }
    };
    let text = String::from_utf8_lossy(&said);
    let text = text.lines().next().unwrap_or_default().trim();
    Ok((status, text.chars().filter(|c| !c.is_control()).collect()))
}

/// A process group that ends with this.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
        if let Some(leader) = leader {
            // SAFETY: kill has no memory effects. The group is that of a child which led it, and
            // ended just now if it did: its number is given to another only after all others were.
            unsafe { libc::kill(-leader, libc::SIGKILL) };
        }
    }
}

/// As a variable can hold it.
fn variable_text(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_VARIABLE.min(text.len()));
    text[..end].replace('\0', "")
}
