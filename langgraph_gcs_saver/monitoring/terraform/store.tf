# The bucket and the database. Both are kept if you destroy the rest.

resource "google_storage_bucket" "store" {
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # No name is used twice, so versions would keep nothing. Deleted objects stay as long as backups of documents.
  soft_delete_policy {
    retention_duration_seconds = var.restore_days * 86400
  }

  dynamic "lifecycle_rule" {
    for_each = local.lifecycle_rules
    content {
      action {
        type          = lifecycle_rule.value.type
        storage_class = lifecycle_rule.value.storage_class
      }
      condition {
        age                   = lifecycle_rule.value.age
        matches_storage_class = lifecycle_rule.value.matches_storage_class
        matches_prefix        = var.prefix == "" ? [] : ["${var.prefix}/"]
      }
    }
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.apis]
}

resource "google_firestore_database" "store" {
  name                              = var.database
  location_id                       = var.region
  type                              = "FIRESTORE_NATIVE"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  delete_protection_state           = "DELETE_PROTECTION_ENABLED"

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.apis]
}

# Each day, because collect deletes objects that only older documents name.
resource "google_firestore_backup_schedule" "daily" {
  database  = google_firestore_database.store.name
  retention = "${var.restore_days * 86400}s"

  daily_recurrence {}
}

# Large fields that no query filters by: an empty index_config means that no index has them.
resource "google_firestore_field" "unindexed" {
  for_each   = { for one in local.unindexed : "${one.collection}/${one.field}" => one }
  database   = google_firestore_database.store.name
  collection = each.value.collection
  field      = each.value.field

  index_config {}
}
