# Three accounts, each with the least that it needs: see docs/guides/operations.md#permissions.

locals {
  of_database = "resource.name==\"projects/${var.project}/databases/${var.database}\""
  # Who may do what with documents and objects.
  documents = {
    agents   = "roles/datastore.user"
    verifier = "roles/datastore.viewer"
  }
  objects = {
    agents   = "roles/storage.objectUser"
    verifier = "roles/storage.objectViewer"
  }
}

resource "google_service_account" "agents" {
  account_id   = "agents"
  display_name = "Agents, and the jobs that write: sweep, collect and work"
}

resource "google_service_account" "verifier" {
  account_id   = "verifier"
  display_name = "The job that checks the store, and changes nothing"
}

resource "google_service_account" "scheduler" {
  account_id   = "scheduler"
  display_name = "Cloud Scheduler, which starts the jobs and does nothing else"
}

locals {
  members = {
    agents   = google_service_account.agents.member
    verifier = google_service_account.verifier.member
  }
}

resource "google_project_iam_member" "documents" {
  for_each = local.documents
  project  = var.project
  role     = each.value
  member   = local.members[each.key]

  condition {
    title      = "${var.database}-database"
    expression = local.of_database
  }
}

resource "google_storage_bucket_iam_member" "objects" {
  for_each = local.objects
  bucket   = google_storage_bucket.store.name
  role     = each.value
  member   = local.members[each.key]
}

# Metrics and traces of `telemetry.instrument`.
resource "google_project_iam_member" "telemetry" {
  for_each = toset(["roles/telemetry.metricsWriter", "roles/telemetry.tracesWriter"])
  project  = var.project
  role     = each.value
  member   = google_service_account.agents.member
}
