output "store" {
  description = "The connection string: LANGGRAPH_GCS_STORE of the agents."
  value       = local.uri
}

output "agents" {
  description = "The account that agents run as."
  value       = google_service_account.agents.email
}
