"""Pictures of models and recordings, drawn with matplotlib, which is imported when a picture is drawn."""
