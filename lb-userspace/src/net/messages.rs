//! Links as the kernel would tell of them, for tests: built as netlink messages and parsed from
//! their bytes, since not every kernel that runs the tests can make VLANs and bonds.

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, VlanProtocol,
};

use super::facts::Link;

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An interface that is up, of MTU 1500.
pub(super) fn plain(ifindex: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(MAC.to_vec()),
    ];
    message
}

pub(super) fn with(mut message: LinkMessage, attribute: LinkAttribute) -> LinkMessage {
    message.attributes.push(attribute);
    message
}

pub(super) fn vlan(
    ifindex: u32,
    name: &str,
    parent: u32,
    id: u16,
    protocol: VlanProtocol,
) -> LinkMessage {
    let data = InfoData::Vlan(vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol)]);
    let info = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)];
    let message = with(plain(ifindex, name), LinkAttribute::Link(parent));
    with(message, LinkAttribute::LinkInfo(info))
}

pub(super) fn bond(ifindex: u32, name: &str) -> LinkMessage {
    let data = LinkInfo::Data(InfoData::Bond(vec![InfoBond::MiiMon(100)]));
    let info = vec![LinkInfo::Kind(InfoKind::Bond), data];
    with(plain(ifindex, name), LinkAttribute::LinkInfo(info))
}

pub(super) fn member(ifindex: u32, name: &str, bond: u32) -> LinkMessage {
    with(plain(ifindex, name), LinkAttribute::Controller(bond))
}

/// A link as read from the bytes of such a message.
pub(super) fn read(message: LinkMessage) -> Link {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap().payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => Link::from(&message),
        other => panic!("{other:?}"),
    }
}
