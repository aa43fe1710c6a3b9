//! The driver `memif`: against itself, against peers that break every rule, and against DPDK.

mod dpdk;
mod evil;
mod pair;
mod support;

use dpdk::*;
use evil::*;
use pair::*;

use serde_json::{Value, json};
use smpnet_lab::{Lab, LabError, Result, TempDir, check, run_tests, skip, tests};
use smpnet_memif::channel::SocketName;
use smpnet_plugin::{Driver, Packet, testing};
use std::process::ExitCode;
use support::{Port, bytes, frame, nothing_leaks, wait_for};

fn main() -> ExitCode {
    run_tests(&tests![
        frames_go_both_ways_with_all_their_bytes,
        frames_larger_than_a_buffer_or_a_cell_are_chains,
        every_queue_has_rings_of_its_own,
        a_full_ring_refuses_and_goes_on,
        a_sleeping_end_is_woken_and_a_polling_one_is_not_interrupted,
        a_connection_comes_back_when_either_end_was_away,
        an_interface_that_is_set_down_disconnects_and_comes_back,
        a_wrong_secret_or_id_is_told_to_the_client,
        servers_share_a_socket_by_their_ids,
        the_socket_of_a_dead_server_is_replaced_and_nothing_else,
        frames_wait_in_the_ring_while_no_cell_is_free,
        ports_come_and_go_without_a_trace_in_the_process,
        a_bad_descriptor_costs_its_own_packet_and_no_other,
        a_ring_that_cannot_be_ends_the_connection_with_its_reason,
        what_a_client_offers_is_checked_before_it_is_used,
        a_server_that_breaks_the_rules_harms_only_its_own_packets,
        a_server_of_another_version_or_without_manners_is_refused,
        a_peer_that_scribbles_over_all_shared_memory_ends_nothing_but_its_connection,
        a_server_that_scribbles_over_the_clients_memory_ends_nothing_but_its_connection;
        alone:
        dpdk_gives_every_frame_back_with_its_addresses_swapped,
        dpdk_has_the_same_queues,
        every_packet_that_dpdk_sends_or_takes_is_counted_at_both_ends,
        a_peer_that_dies_in_the_midst_of_a_burst_takes_no_cell_with_it_and_may_come_back,
        memory_of_dpdk_that_it_could_take_away_needs_the_operators_word,
    ])
}
