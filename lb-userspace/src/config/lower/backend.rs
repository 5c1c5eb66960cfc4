//! One of a service's `backends`.

use toml::Spanned;

use super::{Lowering, to_u16};
use crate::config::model::{Address, Backend};
use crate::config::place::Place;
use crate::config::raw::RawBackend;

impl Lowering {
    /// `None` if it lacks what makes it a backend, which has been reported.
    pub(super) fn backend(
        &mut self,
        s: usize,
        b: usize,
        raw: Spanned<RawBackend>,
    ) -> Option<Backend> {
        let span = raw.span();
        let raw = self.open(Place::Backend(s, b), raw);
        let key = |key| Place::BackendKey(s, b, key);
        let name = raw.name.map(|name| self.open(key("name"), name));
        if name.is_none() {
            self.missing(
                &span,
                "the backend has no name",
                "add name = \"web-01\": the name is its identity, the address may change",
            );
        }
        let address = match raw.address {
            Some(text) => self.parse::<Address>(key("address"), &text),
            None => {
                self.missing(&span, "the backend has no address", "add address = \"10.0.0.11\"");
                None
            }
        };
        let family = raw.family.and_then(|text| self.parse(key("family"), &text));
        let port = raw.port.and_then(|port| self.port(key("port"), port));
        let weight = raw.weight.map_or(1, |weight| to_u16(self.open(key("weight"), weight)));
        let backup = raw.backup.is_some_and(|backup| self.open(key("backup"), backup));
        let server_id = raw.server_id.and_then(|text| {
            let id = self.parse(key("server_id"), &text);
            if id.is_none() {
                self.gaps.insert(key("server_id"));
            }
            id
        });
        let backend = Backend::new(name?, address?);
        Some(Backend { family, port, weight, backup, server_id, ..backend })
    }
}
