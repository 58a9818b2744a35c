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
