//! The `tidegate` command; everything is in the library.

use std::process::ExitCode;

/// Misses allocate and free buffers of 64 KiB, at which the system's allocator goes back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}
