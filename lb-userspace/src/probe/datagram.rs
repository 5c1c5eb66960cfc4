//! One datagram out, the first telling one back.

use socket2::{Protocol, Type};
use tokio::net::UdpSocket;

use super::connect::{datagram_failure, datagrams};
use super::excerpt::excerpt;
use super::way::Passage;
use super::{Failure, FailureKind, Limit, Target};
use crate::config::model::Udp;

/// Bytes of an answer that are looked at.
const LONGEST: usize = 4096;

pub(super) async fn udp(
    target: &Target,
    passage: Option<&Passage<'_>>,
    udp: &Udp,
    limit: Limit,
) -> Result<(), Failure> {
    let socket = datagrams(target, passage, Type::DGRAM, Protocol::UDP)?;
    let at = target.address;
    let silence = || format!("no UDP answer from {at}");
    exchange(&socket, target, limit, udp.payload.bytes(), silence, |answer| {
        let Some(expect) = &udp.expect else { return Some(Ok(())) };
        Some(match contains(answer, expect.bytes()) {
            true => Ok(()),
            false => {
                let detail = format!("\"{expect}\" is not in {} from {at}", excerpt(answer));
                Err(Failure::new(FailureKind::Body, detail))
            }
        })
    })
    .await
}

/// Sends `question` and hands every datagram that comes back to `judge` until it has judged.
pub(super) async fn exchange(
    socket: &UdpSocket,
    target: &Target,
    limit: Limit,
    question: &[u8],
    silence: impl FnOnce() -> String,
    mut judge: impl FnMut(&[u8]) -> Option<Result<(), Failure>>,
) -> Result<(), Failure> {
    let asked = async {
        let mut buffer = vec![0; LONGEST];
        let sent = socket.send(question).await;
        sent.map_err(|error| datagram_failure(&error, socket, target))?;
        loop {
            let length = socket.recv(&mut buffer).await;
            let length = length.map_err(|error| datagram_failure(&error, socket, target))?;
            if let Some(judgement) = judge(buffer.get(..length).unwrap_or_default()) {
                return judgement;
            }
        }
    };
    limit.wait(asked, silence).await?
}

/// Whether `part` is somewhere in `whole`.
pub(super) fn contains(whole: &[u8], part: &[u8]) -> bool {
    part.is_empty() || whole.windows(part.len()).any(|window| window == part)
}
