"""Pictures of models and recordings. matplotlib, which draws them, is imported only when a picture is drawn."""
