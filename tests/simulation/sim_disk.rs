//! A simulated file system: what a reader sees now, and what it may find after a power cut.
//!
//! Every change since the last sync is remembered by what it replaced. A power cut takes each touched sector back to any
//! of its versions since then, a file's length to any it had, and the name space to a prefix of its changes (as a
//! journaling file system does). A sync covers what had completed when it began, of its own file or directory alone.
//! Called by [`super::World`] at the moment an op takes effect; knows nothing of time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringlog::io::{DirEntry, Errno, OpenMode};

use super::rng::Rng;

/// What an op does to the disk, as faults see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Open,
    Read,
    Write,
    Sync,
    Truncate,
    Rename,
    Unlink,
    CreateDir,
    RemoveDir,
    List,
}

/// Chances of trouble, each of an op of its kind.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    pub open: f64,
    pub read: f64,
    pub write: f64,
    pub sync: f64,
    /// Renames, unlinks, truncates and the like.
    pub other: f64,
    /// One bit of what a read returns is wrong.
    pub bit_flip: f64,
    /// The op takes up to `slow_max_ns`.
    pub slow: f64,
    pub slow_max_ns: u64,
}

/// A scripted error: the ops of this kind on paths that contain `path`, after `skip` of them, fail `times` times.
#[derive(Clone, Debug)]
pub struct FaultRule {
    pub action: Action,
    pub path: String,
    pub skip: u32,
    pub times: u32,
    pub error: Errno,
}

pub type NodeId = usize;

/// One file system, mounted at `mount`.
pub struct Disk {
    pub mount: PathBuf,
    pub capacity_bytes: u64,
    /// The unit that a power cut tears writes into: 512 or 4096.
    pub sector_bytes: usize,
    pub faults: DiskFaults,
    pub rules: Vec<FaultRule>,
    /// Every op fails with EIO.
    pub dead: bool,
    nodes: Vec<Node>,
    /// Changes of the name space not known to be durable, oldest first.
    renames: Vec<NameChange>,
    used_bytes: u64,
    sequence: u64,
}

struct Node {
    linked: bool,
    opens: u32,
    body: Body,
}

enum Body {
    Dir(BTreeMap<String, NodeId>),
    File(FileData),
}

#[derive(Default)]
struct FileData {
    data: Vec<u8>,
    /// What unsynced writes and truncates replaced, oldest first.
    undo: Vec<Undo>,
    durable_len: u64,
    /// Lengths since the last sync.
    lens: Vec<(u64, u64)>,
}

struct Undo {
    sequence: u64,
    offset: u64,
    old: Vec<u8>,
    /// A sync failed over it: no later sync makes it durable.
    stuck: bool,
}

struct NameChange {
    sequence: u64,
    entries: Vec<(NodeId, String, Option<NodeId>)>,
}

/// How much a power cut takes.
#[derive(Clone, Copy, Debug)]
enum Loss {
    All,
    Nothing,
    Writes,
    Sectors,
}

const ROOT: NodeId = 0;

impl Disk {
    pub fn new(mount: &Path) -> Disk {
        Disk {
            mount: mount.to_path_buf(),
            capacity_bytes: u64::MAX,
            sector_bytes: 512,
            faults: DiskFaults::default(),
            rules: Vec::new(),
            dead: false,
            nodes: vec![Node { linked: true, opens: 0, body: Body::Dir(BTreeMap::new()) }],
            renames: Vec::new(),
            used_bytes: 0,
            sequence: 0,
        }
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The error that this op is to meet, if any.
    pub fn fault(&mut self, action: Action, path: &Path, rng: &mut Rng) -> Option<Errno> {
        if self.dead {
            return Some(Errno::IO);
        }
        let name = path.to_string_lossy();
        for rule in &mut self.rules {
            if rule.action == action && rule.times > 0 && name.contains(&rule.path) {
                if rule.skip > 0 {
                    rule.skip -= 1;
                    continue;
                }
                rule.times -= 1;
                return Some(rule.error);
            }
        }
        let probability = match action {
            Action::Open => self.faults.open,
            Action::Read => self.faults.read,
            Action::Write => self.faults.write,
            Action::Sync => self.faults.sync,
            Action::List => 0.0,
            _ => self.faults.other,
        };
        rng.chance(probability).then_some(Errno::IO)
    }

    // ---- names ----

    fn entries(&self, dir: NodeId) -> Result<&BTreeMap<String, NodeId>, Errno> {
        match &self.nodes[dir].body {
            Body::Dir(entries) => Ok(entries),
            Body::File(_) => Err(Errno(libc::ENOTDIR)),
        }
    }

    fn lookup(&self, path: &Path) -> Result<NodeId, Errno> {
        let relative = path.strip_prefix(&self.mount).map_err(|_| Errno::NOT_FOUND)?;
        let mut node = ROOT;
        for part in relative.components() {
            let name = part.as_os_str().to_string_lossy();
            node = *self.entries(node)?.get(name.as_ref()).ok_or(Errno::NOT_FOUND)?;
        }
        Ok(node)
    }

    fn parent(&self, path: &Path) -> Result<(NodeId, String), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno(libc::EBUSY));
        };
        let dir = self.lookup(parent)?;
        self.entries(dir)?;
        Ok((dir, name.to_string_lossy().into_owned()))
    }

    fn set_names(&mut self, changes: Vec<(NodeId, String, Option<NodeId>)>) {
        self.sequence += 1;
        let mut entries = Vec::with_capacity(changes.len());
        for (dir, name, new) in changes {
            let old = self.set_name(dir, &name, new);
            entries.push((dir, name, old));
        }
        self.renames.push(NameChange { sequence: self.sequence, entries });
    }

    fn set_name(&mut self, dir: NodeId, name: &str, new: Option<NodeId>) -> Option<NodeId> {
        let Body::Dir(entries) = &mut self.nodes[dir].body else { unreachable!("a checked directory") };
        match new {
            Some(node) => entries.insert(name.to_string(), node),
            None => entries.remove(name),
        }
    }

    fn add_node(&mut self, body: Body) -> NodeId {
        self.nodes.push(Node { linked: true, opens: 0, body });
        self.nodes.len() - 1
    }

    pub fn open(&mut self, path: &Path, mode: OpenMode) -> Result<NodeId, Errno> {
        let node = match self.lookup(path) {
            Ok(node) => node,
            Err(Errno::NOT_FOUND) if mode.create && !mode.directory => {
                let (dir, name) = self.parent(path)?;
                let node = self.add_node(Body::File(FileData::default()));
                self.set_names(vec![(dir, name, Some(node))]);
                node
            }
            Err(error) => return Err(error),
        };
        match (&self.nodes[node].body, mode.directory) {
            (Body::Dir(_), false) if mode.write || mode.create => return Err(Errno(libc::EISDIR)),
            (Body::File(_), true) => return Err(Errno(libc::ENOTDIR)),
            _ => {}
        }
        if mode.truncate {
            self.truncate(node, 0)?;
        }
        self.nodes[node].opens += 1;
        Ok(node)
    }

    pub fn close(&mut self, node: NodeId) {
        self.nodes[node].opens -= 1;
        self.release(node);
    }

    /// Gives back the space of a file that has neither a name nor a handle.
    fn release(&mut self, node: NodeId) {
        if !self.nodes[node].linked && self.nodes[node].opens == 0 {
            self.used_bytes -= rounded(self.len(node));
        }
    }

    fn unlink_node(&mut self, node: NodeId) {
        self.nodes[node].linked = false;
        self.release(node);
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let node = self.lookup(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if to.starts_with(from) && to != from {
            return Err(Errno(libc::EINVAL));
        }
        let replaced = self.lookup(to).ok().filter(|&there| there != node);
        if let Some(there) = replaced {
            match (&self.nodes[node].body, &self.nodes[there].body) {
                (Body::Dir(_), Body::Dir(entries)) if !entries.is_empty() => {
                    return Err(Errno(libc::ENOTEMPTY));
                }
                (Body::Dir(_), Body::File(_)) => return Err(Errno(libc::ENOTDIR)),
                (Body::File(_), Body::Dir(_)) => return Err(Errno(libc::EISDIR)),
                _ => {}
            }
        }
        if from != to {
            self.set_names(vec![(from_dir, from_name, None), (to_dir, to_name, Some(node))]);
        }
        if let Some(there) = replaced {
            self.unlink_node(there);
        }
        Ok(())
    }

    pub fn unlink(&mut self, path: &Path) -> Result<(), Errno> {
        let node = self.lookup(path)?;
        if matches!(self.nodes[node].body, Body::Dir(_)) {
            return Err(Errno(libc::EISDIR));
        }
        let (dir, name) = self.parent(path)?;
        self.set_names(vec![(dir, name, None)]);
        self.unlink_node(node);
        Ok(())
    }

    pub fn remove_dir(&mut self, path: &Path) -> Result<(), Errno> {
        let node = self.lookup(path)?;
        if !self.entries(node)?.is_empty() {
            return Err(Errno(libc::ENOTEMPTY));
        }
        let (dir, name) = self.parent(path)?;
        self.set_names(vec![(dir, name, None)]);
        self.nodes[node].linked = false;
        Ok(())
    }

    pub fn create_dir(&mut self, path: &Path) -> Result<(), Errno> {
        match self.lookup(path) {
            Ok(_) => return Err(Errno::EXISTS),
            Err(Errno::NOT_FOUND) => {}
            Err(error) => return Err(error),
        }
        let (dir, name) = self.parent(path)?;
        let node = self.add_node(Body::Dir(BTreeMap::new()));
        self.set_names(vec![(dir, name, Some(node))]);
        Ok(())
    }

    pub fn list(&self, path: &Path) -> Result<Vec<DirEntry>, Errno> {
        let dir = self.lookup(path)?;
        let entry = |(name, &node): (&String, &NodeId)| DirEntry {
            name: name.clone(),
            is_dir: matches!(self.nodes[node].body, Body::Dir(_)),
            len: self.len(node),
        };
        Ok(self.entries(dir)?.iter().map(entry).collect())
    }

    /// Makes every directory of `path` at once and durably: set-up of a run, not an op.
    pub fn create_dir_all(&mut self, path: &Path) {
        let relative = path.strip_prefix(&self.mount).unwrap_or(path).to_path_buf();
        let mut at = self.mount.clone();
        for part in relative.components() {
            at.push(part);
            if self.lookup(&at).is_err() {
                self.create_dir(&at).expect("a free name in a directory");
            }
        }
        self.renames.clear();
    }

    // ---- contents ----

    fn file(&mut self, node: NodeId) -> Result<&mut FileData, Errno> {
        match &mut self.nodes[node].body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(Errno(libc::EISDIR)),
        }
    }

    pub fn len(&self, node: NodeId) -> u64 {
        match &self.nodes[node].body {
            Body::File(file) => file.data.len() as u64,
            Body::Dir(_) => 0,
        }
    }

    pub fn read(&mut self, node: NodeId, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        let data = &self.file(node)?.data;
        let start = (offset.min(data.len() as u64)) as usize;
        let len = out.len().min(data.len() - start);
        out[..len].copy_from_slice(&data[start..start + len]);
        Ok(len)
    }

    /// Writes what the capacity allows; ENOSPC when that is not all.
    pub fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8], sync: bool) -> Result<(), Errno> {
        let end = offset + bytes.len() as u64;
        let room = self.reserve(node, end);
        let taken = if room >= end { bytes.len() } else { room.saturating_sub(offset) as usize };
        self.put(node, offset, &bytes[..taken], sync)?;
        if taken < bytes.len() { Err(Errno::NO_SPACE) } else { Ok(()) }
    }

    /// The length up to `end` that the file can have, by the capacity of the disk, in whole blocks.
    fn reserve(&self, node: NodeId, end: u64) -> u64 {
        let held = rounded(self.len(node));
        if rounded(end) <= held {
            return end;
        }
        let free = self.capacity_bytes.saturating_sub(self.used_bytes);
        if rounded(end) - held <= free { end } else { held + free / 4096 * 4096 }
    }

    fn put(&mut self, node: NodeId, offset: u64, bytes: &[u8], sync: bool) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let before = rounded(self.len(node));
        let file = self.file(node)?;
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if sync {
            file.pin(offset, bytes);
        } else {
            file.undo.push(Undo { sequence, offset, old: file.window(start, end), stuck: false });
        }
        if end > file.data.len() {
            file.data.resize(end, 0);
            file.lens.push((sequence, end as u64));
        }
        file.data[start..end].copy_from_slice(bytes);
        if sync {
            file.durable_len = file.data.len() as u64;
            file.lens.clear();
        }
        let after = rounded(file.data.len() as u64);
        self.used_bytes += after - before;
        Ok(())
    }

    /// A write that a crash or an error caught: each sector lands or does not.
    pub fn write_torn(&mut self, node: NodeId, offset: u64, bytes: &[u8], rng: &mut Rng) {
        let sector = self.sector_bytes as u64;
        let keep = *rng.pick(&[0.0, 0.5, 0.9, 1.0]);
        let mut start = 0;
        while start < bytes.len() {
            let position = offset + start as u64;
            let next = ((position / sector + 1) * sector - offset).min(bytes.len() as u64) as usize;
            if rng.chance(keep) && self.write(node, position, &bytes[start..next], false).is_err() {
                return;
            }
            start = next;
        }
    }

    pub fn truncate(&mut self, node: NodeId, len: u64) -> Result<(), Errno> {
        if self.reserve(node, len) < len {
            return Err(Errno::NO_SPACE);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let before = rounded(self.len(node));
        let file = self.file(node)?;
        if len != file.data.len() as u64 {
            if len < file.data.len() as u64 {
                let old = file.data[len as usize..].to_vec();
                file.undo.push(Undo { sequence, offset: len, old, stuck: false });
            }
            file.data.resize(len as usize, 0);
            file.lens.push((sequence, len));
        }
        self.used_bytes = self.used_bytes - before + rounded(len);
        Ok(())
    }

    // ---- durability ----

    /// What a sync that begins now will cover.
    pub fn sync_mark(&self) -> u64 {
        self.sequence
    }

    pub fn sync(&mut self, node: NodeId, mark: u64) {
        match &mut self.nodes[node].body {
            Body::File(file) => file.sync(mark),
            Body::Dir(_) => {
                let touches = |change: &NameChange| {
                    change.sequence <= mark && change.entries.iter().any(|(dir, ..)| *dir == node)
                };
                let covered = self.renames.iter().rposition(touches).map_or(0, |last| last + 1);
                let gone: Vec<NameChange> = self.renames.drain(..covered).collect();
                for (_, _, old) in gone.into_iter().flat_map(|change| change.entries) {
                    self.forget(old);
                }
            }
        }
    }

    /// Frees the memory of a file that no crash can bring back.
    fn forget(&mut self, node: Option<NodeId>) {
        let Some(node) = node.map(|id| &mut self.nodes[id]) else { return };
        if !node.linked && node.opens == 0 && matches!(node.body, Body::File(_)) {
            node.body = Body::File(FileData::default());
        }
    }

    /// A failed sync: the kernel calls the pages clean, yet they may never reach the media.
    pub fn sync_failed(&mut self, node: NodeId) {
        if let Body::File(file) = &mut self.nodes[node].body {
            file.undo.iter_mut().for_each(|undo| undo.stuck = true);
        }
    }

    /// Every process that used the disk is gone.
    pub fn close_all(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].opens > 0 {
                self.nodes[node].opens = 0;
                self.release(node);
            }
        }
    }

    /// Takes the disk to a state that a power cut may leave.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let kept = match rng.below(4) {
            0 => 0,
            1 => self.renames.len(),
            _ => rng.index(self.renames.len() + 1),
        };
        for change in self.renames.split_off(kept).into_iter().rev() {
            for (dir, name, old) in change.entries.into_iter().rev() {
                self.set_name(dir, &name, old);
            }
        }
        self.renames.clear();
        self.find_linked();
        let sector = self.sector_bytes;
        for node in &mut self.nodes {
            node.opens = 0;
            match &mut node.body {
                Body::File(file) if node.linked => file.power_cut(sector, rng),
                Body::File(file) => *file = FileData::default(),
                Body::Dir(_) => {}
            }
        }
        self.used_bytes =
            (0..self.nodes.len()).filter(|&n| self.nodes[n].linked).map(|n| rounded(self.len(n))).sum();
    }

    fn find_linked(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.linked = false);
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            self.nodes[id].linked = true;
            if let Body::Dir(entries) = &self.nodes[id].body {
                open.extend(entries.values());
            }
        }
    }

    /// What a reader sees of a file.
    pub fn contents(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        match &self.nodes[self.lookup(path)?].body {
            Body::File(file) => Ok(file.data.clone()),
            Body::Dir(_) => Err(Errno(libc::EISDIR)),
        }
    }

    /// Cuts a file at rest.
    pub fn cut(&mut self, path: &Path, len: u64) -> Result<(), Errno> {
        let node = self.lookup(path)?;
        self.truncate(node, len)
    }

    /// Inverts bits of a file at rest.
    pub fn corrupt(&mut self, path: &Path, offset: u64, mask: u8) -> Result<(), Errno> {
        let node = self.lookup(path)?;
        let data = &mut self.file(node)?.data;
        *data.get_mut(offset as usize).ok_or(Errno(libc::EINVAL))? ^= mask;
        Ok(())
    }
}

fn rounded(len: u64) -> u64 {
    len.next_multiple_of(4096)
}

impl FileData {
    /// What is there at `start..end`, zeros behind the end of the file.
    fn window(&self, start: usize, end: usize) -> Vec<u8> {
        let mut old = vec![0; end - start];
        if self.data.len() > start {
            let have = self.data.len().min(end);
            old[..have - start].copy_from_slice(&self.data[start..have]);
        }
        old
    }

    /// Makes `bytes` at `offset` the only version that a crash can find there.
    fn pin(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        for undo in &mut self.undo {
            let (from, to) = (undo.offset.max(offset), (undo.offset + undo.old.len() as u64).min(end));
            if from < to {
                let target = &mut undo.old[(from - undo.offset) as usize..(to - undo.offset) as usize];
                target.copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            }
        }
    }

    fn sync(&mut self, mark: u64) {
        if self.undo.iter().any(|undo| undo.stuck) {
            let fresh: Vec<(u64, usize)> = (self.undo.iter())
                .filter(|undo| !undo.stuck && undo.sequence <= mark)
                .map(|undo| (undo.offset, undo.old.len()))
                .collect();
            for (offset, len) in fresh {
                let now = self.window(offset as usize, offset as usize + len);
                self.pin(offset, &now);
            }
        }
        self.undo.retain(|undo| undo.stuck || undo.sequence > mark);
        if let Some(at) = self.lens.iter().rposition(|(sequence, _)| *sequence <= mark) {
            self.durable_len = self.lens[at].1;
            self.lens.drain(..=at);
        }
    }

    fn power_cut(&mut self, sector: usize, rng: &mut Rng) {
        let loss = *rng.pick(&[Loss::All, Loss::Nothing, Loss::Writes, Loss::Sectors]);
        let len = match loss {
            Loss::All => self.durable_len,
            Loss::Nothing => self.data.len() as u64,
            Loss::Writes | Loss::Sectors => {
                let at = rng.index(self.lens.len() + 1);
                if at == 0 { self.durable_len } else { self.lens[at - 1].1 }
            }
        };
        let survives: Vec<bool> = self.undo.iter().map(|_| rng.chance(0.5)).collect();
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, undo) in self.undo.iter().enumerate() {
            let (first, last) = (undo.offset as usize / sector, undo.offset as usize + undo.old.len() - 1);
            for at in first..=last / sector {
                touched.entry(at).or_default().push(index);
            }
        }
        let reach = self.undo.iter().map(|undo| undo.offset as usize + undo.old.len()).max().unwrap_or(0);
        self.data.resize(self.data.len().max(reach), 0);
        for (at, writes) in touched {
            let version = match loss {
                Loss::All => 0,
                Loss::Nothing => writes.len(),
                Loss::Writes => writes.iter().rposition(|&index| survives[index]).map_or(0, |last| last + 1),
                Loss::Sectors => rng.index(writes.len() + 1),
            };
            for &index in writes[version..].iter().rev() {
                let undo = &self.undo[index];
                let from = (at * sector).max(undo.offset as usize);
                let to = ((at + 1) * sector).min(undo.offset as usize + undo.old.len());
                let old = &undo.old[from - undo.offset as usize..to - undo.offset as usize];
                self.data[from..to].copy_from_slice(old);
            }
        }
        self.data.resize(len as usize, 0);
        self.undo.clear();
        self.lens.clear();
        self.durable_len = len;
    }
}
