//! Tests against real servers. One binary, one module for each area, so that it is linked once. Each test uses its own
//! names, ports and folders, and takes down what it has started.

mod conformance;
mod consul;
mod docker;
mod e2e_absent;
mod e2e_adopt;
mod e2e_apply;
mod e2e_cases;
mod e2e_changes;
mod e2e_cluster;
mod e2e_controller;
mod e2e_crash;
mod e2e_discovered;
mod e2e_discovery;
mod e2e_drift;
mod e2e_explain;
mod e2e_faults_consul;
mod e2e_faults_docker;
mod e2e_faults_nginx;
mod e2e_import;
mod e2e_isolation;
mod e2e_load;
mod e2e_lua;
mod e2e_rollout;
mod e2e_routes;
mod e2e_scale;
mod e2e_strangers;
mod e2e_templates;
mod e2e_templates_rounds;
mod e2e_two;
mod nginx;
mod support;
