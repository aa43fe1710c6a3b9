//! Who takes what: tunnels' outer headers, 802.1Q ids, EtherTypes.

use super::Control;
use crate::error::StackError;
use crate::inet::demux::EncapV4;
use crate::net::ifnet::{Ifnet, Medium};
use crate::stack::Stack;
use crate::types::IfIndex;
use crate::wire::be32;
use smpnet_abi::EncapKey;
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Stack {
    /// Packets that match `key` go to the interface's `input`.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadKey`] for versions other than 4, [`StackError::KeyTaken`].
    pub fn encap_attach(&self, index: IfIndex, key: &EncapKey) -> Result<(), StackError> {
        let _control = self.lock();
        self.interface(index)?;
        let key = encap_v4(key)?;
        if let Some(owner) = self.encap.load_control().get(&key) {
            return Err(StackError::KeyTaken(encap_text(&key), self.if_name(owner.get())));
        }
        self.encap.update(&self.domain, |old| {
            let mut new = old.clone();
            new.insert(key, index);
            (new, ())
        });
        Ok(())
    }

    /// Ends [`Stack::encap_attach`]. When this returns, no worker is in `input` for it. Never on a worker.
    ///
    /// # Errors
    /// [`StackError::BadKey`].
    pub fn encap_detach(&self, index: IfIndex, key: &EncapKey) -> Result<(), StackError> {
        let control = self.lock();
        let key = encap_v4(key)?;
        let gone = self.encap.update(&self.domain, |old| {
            let mut new = old.clone();
            let mine = old.get(&key) == Some(index);
            if mine {
                new.remove(&key);
            }
            (new, mine)
        });
        drop(control);
        if !gone {
            return Err(StackError::BadKey(format!("{} is not attached", encap_text(&key))));
        }
        self.domain.perform();
        Ok(())
    }

    /// Frames of `parent` with the 802.1Q id `vid` go to the interface's `input`, with the tag in `vlan_tci`
    /// (`pkt_flags::VLAN`) and taken off the bytes.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadKey`], [`StackError::KeyTaken`].
    pub fn vlan_attach(&self, parent: IfIndex, vid: u16, index: IfIndex) -> Result<(), StackError> {
        let _control = self.lock();
        self.interface(index)?;
        let p = self.ether_parent(parent)?;
        if !(1..=4094).contains(&vid) {
            return Err(StackError::BadKey(format!("802.1Q id {vid} is not within 1 to 4094")));
        }
        let mut vlans = p.vlans.as_deref().copied().unwrap_or([0; 4096]);
        let slot = &mut vlans[usize::from(vid)];
        if *slot != 0 {
            let owner = self.if_name(u32::from(*slot));
            return Err(StackError::KeyTaken(format!("802.1Q id {vid} of `{}`", p.name), owner));
        }
        *slot = index.get() as u16;
        self.put(Ifnet { vlans: Some(Arc::new(vlans)), ..(*p).clone() });
        Ok(())
    }

    /// Ends [`Stack::vlan_attach`]; as [`Stack::encap_detach`].
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadKey`].
    pub fn vlan_detach(&self, parent: IfIndex, vid: u16, index: IfIndex) -> Result<(), StackError> {
        let control = self.lock();
        let p = self.interface(parent)?;
        let mut vlans = p.vlans.as_deref().copied().unwrap_or([0; 4096]);
        match vlans.get_mut(usize::from(vid)) {
            Some(slot) if *slot != 0 && u32::from(*slot) == index.get() => *slot = 0,
            _ => return Err(StackError::BadKey(format!("802.1Q id {vid} of `{}` is not attached", p.name))),
        }
        let vlans = vlans.iter().any(|v| *v != 0).then(|| Arc::new(vlans));
        self.put(Ifnet { vlans, ..(*p).clone() });
        drop(control);
        self.domain.perform();
        Ok(())
    }

    /// Frames of `parent` with this EtherType go to the interface's `input`, from their Ethernet header on.
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadKey`] for lengths (below 0x600), [`StackError::KeyTaken`].
    pub fn ether_attach(&self, parent: IfIndex, ether_type: u16, index: IfIndex) -> Result<(), StackError> {
        let _control = self.lock();
        self.interface(index)?;
        let p = self.ether_parent(parent)?;
        if ether_type < 0x600 {
            return Err(StackError::BadKey(format!("{ether_type:#06x} is a length, not an EtherType")));
        }
        if let Some((_, owner)) = p.ether_types.iter().find(|(t, _)| *t == ether_type) {
            return Err(StackError::KeyTaken(
                format!("EtherType {ether_type:#06x} of `{}`", p.name),
                self.if_name(*owner),
            ));
        }
        let mut all = p.ether_types.to_vec();
        all.push((ether_type, index.get()));
        self.put(Ifnet { ether_types: all.into(), ..(*p).clone() });
        Ok(())
    }

    /// Ends [`Stack::ether_attach`]; as [`Stack::encap_detach`].
    ///
    /// # Errors
    /// [`StackError::NoInterface`], [`StackError::BadKey`].
    pub fn ether_detach(&self, parent: IfIndex, ether_type: u16, index: IfIndex) -> Result<(), StackError> {
        let control = self.lock();
        let p = self.interface(parent)?;
        let rest: Vec<_> = p.ether_types.iter().filter(|e| **e != (ether_type, index.get())).copied().collect();
        if rest.len() == p.ether_types.len() {
            return Err(StackError::BadKey(format!("EtherType {ether_type:#06x} of `{}` is not attached", p.name)));
        }
        self.put(Ifnet { ether_types: rest.into(), ..(*p).clone() });
        drop(control);
        self.domain.perform();
        Ok(())
    }

    fn ether_parent(&self, parent: IfIndex) -> Result<Arc<Ifnet>, StackError> {
        let p = self.interface(parent)?;
        if p.medium != Medium::Ether {
            return Err(StackError::BadKey(format!("`{}` is no Ethernet interface", p.name)));
        }
        Ok(p)
    }

    /// The keys of an interface that is taken out.
    pub(super) fn keys_removed(&self, _control: &mut Control, index: IfIndex) {
        self.encap.update(&self.domain, |old| {
            let mut new = old.clone();
            for key in old.keys_of(index) {
                new.remove(&key);
            }
            (new, ())
        });
        for p in self.ifs.all() {
            let n = index.get();
            let vlan = p.vlans.as_ref().is_some_and(|v| v.iter().any(|i| u32::from(*i) == n));
            if !vlan && !p.ether_types.iter().any(|(_, i)| *i == n) {
                continue;
            }
            let vlans = p.vlans.as_deref().map(|v| Arc::new(v.map(|i| if u32::from(i) == n { 0 } else { i })));
            let ether_types = p.ether_types.iter().filter(|(_, i)| *i != n).copied().collect();
            self.put(Ifnet { vlans, ether_types, ..(*p).clone() });
        }
    }
}

fn encap_v4(key: &EncapKey) -> Result<EncapV4, StackError> {
    if key.version != 4 {
        return Err(StackError::BadKey(format!("encapsulation in IP version {} is not supported", key.version)));
    }
    Ok(EncapV4 { remote: be32(&key.remote, 0), local: be32(&key.local, 0), protocol: key.protocol })
}

fn encap_text(k: &EncapV4) -> String {
    let (remote, local) = (Ipv4Addr::from_bits(k.remote), Ipv4Addr::from_bits(k.local));
    format!("protocol {} from {remote} to {local}", k.protocol)
}
