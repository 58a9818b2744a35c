# Jobs on a schedule. Each can be stopped at any time: its next run continues.

locals {
  parameters = join("&", concat(
    ["project=${var.project}", "database=${var.database}"],
    var.root == "" ? [] : ["root=${urlencode(var.root)}"],
  ))
  # As a connection string has it: a space is %20, and a slash is itself.
  path = replace(replace(urlencode(var.prefix), "+", "%20"), "%2F", "/")
  uri  = "gs://${var.bucket}${var.prefix == "" ? "" : "/${local.path}"}?${local.parameters}"

  upkeep = {
    verify = {
      args     = ["verify", "--depth", "data", "--json"]
      schedule = "17 2 * * 0"
      account  = google_service_account.verifier.email
      timeout  = "86400s"
    }
    sweep = {
      args     = ["sweep", "--ttl", var.ttl, "--yes", "--json"]
      schedule = "17 3 * * *"
      account  = google_service_account.agents.email
      timeout  = "3600s"
    }
    collect = {
      args     = ["collect", "--yes", "--json"]
      schedule = "47 3 * * *"
      account  = google_service_account.agents.email
      timeout  = "3600s"
    }
  }
  work = {
    work = {
      args     = ["work", var.graph, "--stop-after", "55m", "--json"]
      schedule = "*/5 * * * *"
      account  = google_service_account.agents.email
      timeout  = "3600s"
    }
  }
  jobs = merge(
    { for name, job in local.upkeep : name => merge(job, { image = var.upkeep_image }) if var.upkeep_image != "" },
    { for name, job in local.work : name => merge(job, { image = var.work_image }) if var.work_image != "" },
  )
}

resource "google_cloud_run_v2_job" "jobs" {
  for_each            = local.jobs
  name                = "lg-${each.key}"
  location            = var.region
  deletion_protection = false

  template {
    template {
      service_account = each.value.account
      timeout         = each.value.timeout
      max_retries     = 1

      containers {
        image   = each.value.image
        command = ["langgraph-gcs"]
        args    = each.value.args

        env {
          name  = "LANGGRAPH_GCS_STORE"
          value = local.uri
        }
        env {
          name  = "LANGGRAPH_STRICT_MSGPACK"
          value = "true"
        }
      }
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_cloud_run_v2_job_iam_member" "scheduler" {
  for_each = google_cloud_run_v2_job.jobs
  name     = each.value.name
  location = each.value.location
  role     = "roles/run.invoker"
  member   = google_service_account.scheduler.member
}

resource "google_cloud_scheduler_job" "jobs" {
  for_each = google_cloud_run_v2_job.jobs
  name     = each.value.name
  region   = each.value.location
  schedule = local.jobs[each.key].schedule

  http_target {
    http_method = "POST"
    uri         = "https://run.googleapis.com/v2/${each.value.id}:run"

    oauth_token {
      service_account_email = google_service_account.scheduler.email
    }
  }

  depends_on = [google_project_service.apis]
}
