//! The `tidegate` command; everything is in the library.

use std::process::ExitCode;

/// Misses allocate and free buffers of 64 KiB, at which the system's allocator goes back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages make memory of what was only reserved: an idle WebSocket took three times as much, and no hit was faster.
    // A kernel that doesn't know of them needs no telling.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_thp_disable(true).unwrap_or_default();
    tidegate::cli::main()
}
