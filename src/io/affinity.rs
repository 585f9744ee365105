//! Cores: which ones this process may use, and pinning a shard's thread to one. Called by `server` at start.

use core_affinity::CoreId;

/// The cores of the process's affinity mask (a container's cpuset shows here), ascending.
pub fn allowed_cores() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// Pins the calling thread; `false` when the kernel refuses.
pub fn pin_to(core: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: core })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_its_core_alone() {
        let cores = allowed_cores();
        let &last = cores.last().unwrap();
        std::thread::spawn(move || {
            assert!(pin_to(last));
            assert_eq!(allowed_cores(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(allowed_cores(), cores);
    }
}
