//! The simulation: the broker's parts on virtual time, a simulated disk and a simulated network, from one seed.

#[path = "simulation/sim_io.rs"]
mod sim_io;

fn main() {}
