variable "project" {
  description = "The project of everything here."
  type        = string
}

variable "region" {
  description = "Where the bucket, the database and the jobs are, best where the agents run."
  type        = string
}

variable "bucket" {
  description = "The name of the store's bucket."
  type        = string
}

variable "prefix" {
  description = "The prefix of the store's objects, without a slash at its end; empty for the whole bucket."
  type        = string
  default     = ""
}

variable "database" {
  description = "The name of the store's Firestore database. Give the store one of its own."
  type        = string
  default     = "agents"
}

variable "root" {
  description = "The path of the document that the store is below, if the prefix does not say it."
  type        = string
  default     = ""
}

variable "restore_days" {
  description = "For how many days the store can be restored: backups of documents, and deleted objects. At most 90."
  type        = number
  default     = 28

  validation {
    condition     = var.restore_days >= 7 && var.restore_days <= 90
    error_message = "Cloud Storage keeps deleted objects for 7 to 90 days."
  }
}

variable "upkeep_image" {
  description = "An image whose command `langgraph-gcs` runs verify, collect and sweep; empty for no such jobs."
  type        = string
  default     = ""
}

variable "work_image" {
  description = "The agents' image, whose command `langgraph-gcs` resumes runs; empty for no such job."
  type        = string
  default     = ""
}

variable "graph" {
  description = "The graph in that image, as MODULE:GRAPH."
  type        = string
  default     = "agent:graph"
}

variable "ttl" {
  description = "For how long an idle thread is kept, such as 90d."
  type        = string
  default     = "90d"
}

variable "notification_channels" {
  description = "Who hears of alerts: names such as projects/my-project/notificationChannels/123."
  type        = list(string)
  default     = []
}
