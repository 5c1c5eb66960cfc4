//! A probe with all that can be made ready once, for every time it is sent.

use regex_lite::Regex;

use super::tls::{self, Client, Configs};
use super::way::Passage;
use super::{Failure, Limit, Target, connect, datagram, dns, exec, grpc, http, icmp};
use crate::config::model::{BodyMatch, Http, Probe};

#[derive(Debug)]
pub struct Asked {
    probe: Probe,
    /// An error in words: every probe fails by it.
    tls: Option<Result<Client, String>>,
    regex: Option<Regex>,
}

impl Asked {
    #[must_use]
    pub fn new(probe: &Probe, configs: &mut Configs) -> Self {
        let regex = match probe {
            Probe::Http(Http { body: Some(BodyMatch::Regex(regex)), .. }) => Regex::new(regex).ok(),
            _ => None,
        };
        Self { probe: probe.clone(), tls: Client::of(probe, configs), regex }
    }

    /// Through `passage`, if there is one; what goes over neither TCP nor UDP knows none.
    pub(super) async fn ask(
        &self,
        target: &Target,
        passage: Option<&Passage<'_>>,
        limit: Limit,
    ) -> Result<(), Failure> {
        match &self.probe {
            Probe::None => Ok(()),
            Probe::Tcp => connect::connect(target, passage, limit).await.map(drop),
            Probe::Http(http) => {
                let question =
                    http::Question { target: target.address, http, regex: self.regex.as_ref() };
                let stream = connect::connect(target, passage, limit).await?;
                match self.client()? {
                    None => question.ask(stream, limit).await,
                    Some(tls) => {
                        question
                            .ask(tls.handshake(stream, target.address, limit).await?, limit)
                            .await
                    }
                }
            }
            Probe::Grpc(grpc) => {
                let question = grpc::Question { target: target.address, grpc };
                let stream = connect::connect(target, passage, limit).await?;
                match self.client()? {
                    None => question.ask(stream, limit).await,
                    Some(tls) => {
                        question
                            .ask(tls.handshake(stream, target.address, limit).await?, limit)
                            .await
                    }
                }
            }
            Probe::Dns(asked) => dns::dns(target, passage, asked, limit).await,
            Probe::Udp(asked) => datagram::udp(target, passage, asked, limit).await,
            Probe::Icmp => icmp::icmp(target, limit).await,
            Probe::Exec(asked) => exec::exec(target, asked, limit).await,
        }
    }

    fn client(&self) -> Result<Option<&Client>, Failure> {
        match &self.tls {
            None => Ok(None),
            Some(Ok(client)) => Ok(Some(client)),
            Some(Err(error)) => Err(tls::unready(error)),
        }
    }

    #[cfg(test)]
    pub(super) fn shares_tls_with(&self, other: &Self) -> bool {
        matches!((&self.tls, &other.tls), (Some(Ok(a)), Some(Ok(b))) if a.shares_with(b))
    }
}
