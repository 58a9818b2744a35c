# The dashboard and the alert policies, from the JSON files beside this one.

locals {
  policies = {
    for path in fileset(path.module, "alerts/*.json") :
    trimsuffix(basename(path), ".json") => jsondecode(file("${path.module}/${path}"))
  }
}

resource "google_monitoring_dashboard" "store" {
  dashboard_json = file("${path.module}/dashboard.json")

  depends_on = [google_project_service.apis]
}

resource "google_monitoring_alert_policy" "alerts" {
  for_each              = local.policies
  display_name          = each.value.displayName
  severity              = each.value.severity
  combiner              = each.value.combiner
  enabled               = each.value.enabled
  user_labels           = each.value.userLabels
  notification_channels = var.notification_channels

  documentation {
    subject   = each.value.documentation.subject
    mime_type = each.value.documentation.mimeType
    content   = each.value.documentation.content

    dynamic "links" {
      for_each = try(each.value.documentation.links, [])
      content {
        display_name = links.value.displayName
        url          = links.value.url
      }
    }
  }

  dynamic "conditions" {
    for_each = each.value.conditions
    content {
      display_name = conditions.value.displayName

      condition_prometheus_query_language {
        query                     = conditions.value.conditionPrometheusQueryLanguage.query
        duration                  = conditions.value.conditionPrometheusQueryLanguage.duration
        evaluation_interval       = conditions.value.conditionPrometheusQueryLanguage.evaluationInterval
        disable_metric_validation = conditions.value.conditionPrometheusQueryLanguage.disableMetricValidation
      }
    }
  }

  alert_strategy {
    auto_close = each.value.alertStrategy.autoClose
  }

  depends_on = [google_project_service.apis]
}

# The jobs have no metrics of their own. `verify` fails if something is damaged, so its executions say what it found.
# `work` is left out: it also ends with a failure if it was stopped in time.
resource "google_monitoring_alert_policy" "upkeep" {
  count                 = var.upkeep_image == "" ? 0 : 1
  display_name          = "LangGraph checkpoints: A job fails"
  severity              = "ERROR"
  combiner              = "OR"
  notification_channels = var.notification_channels

  user_labels = {
    component = "langgraph-gcs"
    alert     = "jobs"
  }

  documentation {
    subject   = "A job fails"
    mime_type = "text/markdown"
    content   = "A job of ${join(", ", keys(local.upkeep))} failed. Its log has the reason. Exit code 4 is damage: run `langgraph-gcs verify THREAD --depth data` and `langgraph-gcs repair THREAD --dry-run`."
  }

  conditions {
    display_name = "A job fails"

    condition_threshold {
      filter = join(" AND ", [
        "resource.type = \"cloud_run_job\"",
        "resource.labels.job_name = one_of(${join(", ", [for name in keys(local.upkeep) : "\"${google_cloud_run_v2_job.jobs[name].name}\""])})",
        "metric.type = \"run.googleapis.com/job/completed_execution_count\"",
        "metric.labels.result = \"failed\"",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  depends_on = [google_project_service.apis]
}
