BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	run_id VARCHAR(200) NOT NULL, 
	n INTEGER NOT NULL, 
	walker INTEGER NOT NULL, 
	start_id VARCHAR(64) NOT NULL, 
	action VARCHAR(60) NOT NULL, 
	parameters JSON NOT NULL, 
	accepted BOOLEAN NOT NULL, 
	reason VARCHAR, 
	structure_id VARCHAR(64), 
	quenched_id VARCHAR(64), 
	basin_id INTEGER, 
	energy DOUBLE, 
	max_force DOUBLE, 
	force_calls INTEGER NOT NULL, 
	CONSTRAINT pk_attempts PRIMARY KEY (id), 
	CONSTRAINT fk_attempts_basin_id_basins FOREIGN KEY(basin_id) REFERENCES basins (id), 
	CONSTRAINT fk_attempts_quenched_id_structures FOREIGN KEY(quenched_id) REFERENCES structures (id), 
	CONSTRAINT fk_attempts_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT fk_attempts_start_id_structures FOREIGN KEY(start_id) REFERENCES structures (id), 
	CONSTRAINT fk_attempts_structure_id_structures FOREIGN KEY(structure_id) REFERENCES structures (id), 
	CONSTRAINT uq_attempts_run_id_n UNIQUE (run_id, n)
);
CREATE TABLE basins (
	id INTEGER NOT NULL, 
	run_id VARCHAR(200) NOT NULL, 
	name VARCHAR(40) NOT NULL, 
	structure_id VARCHAR(64) NOT NULL, 
	energy DOUBLE NOT NULL, 
	visits INTEGER NOT NULL, 
	first_attempt INTEGER NOT NULL, 
	CONSTRAINT pk_basins PRIMARY KEY (id), 
	CONSTRAINT fk_basins_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT fk_basins_structure_id_structures FOREIGN KEY(structure_id) REFERENCES structures (id), 
	CONSTRAINT uq_basins_run_id_name UNIQUE (run_id, name)
);
CREATE TABLE decisions (
	id INTEGER NOT NULL, 
	folder VARCHAR(500) NOT NULL, 
	structure_id VARCHAR(64) NOT NULL, 
	n INTEGER, 
	round INTEGER, 
	verdict VARCHAR(20) NOT NULL, 
	reason VARCHAR, 
	duplicate_of VARCHAR(64), 
	rmsd DOUBLE, 
	decided_at DATETIME NOT NULL, 
	CONSTRAINT pk_decisions PRIMARY KEY (id), 
	CONSTRAINT fk_decisions_folder_outboxes FOREIGN KEY(folder) REFERENCES outboxes (folder), 
	CONSTRAINT fk_decisions_structure_id_structures FOREIGN KEY(structure_id) REFERENCES structures (id)
);
INSERT INTO "decisions" VALUES(1,'sampling/round-1','92774b005498b1d6ca53fe7dd776ac96ca71ada956f1ef03006e855458ecf8fd',3,1,'skipped','exploded: max_force 31 is above 30',NULL,NULL,'2026-11-25 12:56:24.849728');
INSERT INTO "decisions" VALUES(2,'sampling/round-1','c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360',4,1,'skipped','already queued','c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360',0.0,'2026-11-25 12:56:24.849735');
INSERT INTO "decisions" VALUES(3,'sampling/round-1','58320103762e8761262149f1faedf19888a30b6cd12f19763fce8ae1b4fc5229',1,1,'skipped','duplicate of c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360 at RMSD 0.000','c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360',1.44815368749278225056e-04,'2026-11-25 12:56:24.849736');
INSERT INTO "decisions" VALUES(4,'sampling/round-1','c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360',0,1,'selected',NULL,NULL,NULL,'2026-11-25 12:56:24.849736');
INSERT INTO "decisions" VALUES(5,'sampling/round-1','e92345fc2fa1566ba6c84bd072e0b9cc0f790c88bf26d4c37ea8b01451f0e7fe',2,1,'kept',NULL,NULL,NULL,'2026-11-25 12:56:24.849737');
CREATE TABLE jobs (
	id VARCHAR(64) NOT NULL, 
	structure_id VARCHAR(64) NOT NULL, 
	engine VARCHAR(40) NOT NULL, 
	settings JSON NOT NULL, 
	launcher VARCHAR(40) NOT NULL, 
	scheduler_id VARCHAR, 
	folder VARCHAR NOT NULL, 
	round INTEGER, 
	state VARCHAR(20) NOT NULL, 
	reason VARCHAR, 
	tries INTEGER NOT NULL, 
	seconds DOUBLE, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, failure VARCHAR(20), wall_seconds DOUBLE, memory_mb INTEGER, core_seconds DOUBLE DEFAULT '0' NOT NULL, retry_of VARCHAR(64), 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_structure_id_structures FOREIGN KEY(structure_id) REFERENCES structures (id)
);
CREATE TABLE labels (
	job_id VARCHAR(64) NOT NULL, 
	structure_id VARCHAR(64) NOT NULL, 
	energy DOUBLE NOT NULL, 
	max_force DOUBLE NOT NULL, 
	round INTEGER, 
	forces VARCHAR NOT NULL, 
	lmdb VARCHAR, 
	lmdb_key INTEGER, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_labels PRIMARY KEY (job_id), 
	CONSTRAINT fk_labels_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_labels_structure_id_structures FOREIGN KEY(structure_id) REFERENCES structures (id)
);
CREATE TABLE models (
	sha256 VARCHAR(64) NOT NULL, 
	backend VARCHAR(40) NOT NULL, 
	manifest VARCHAR NOT NULL, 
	weights_sha256 VARCHAR(64) NOT NULL, 
	parent_sha256 VARCHAR(64), 
	run_id VARCHAR(200), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (sha256), 
	CONSTRAINT fk_models_parent_sha256_models FOREIGN KEY(parent_sha256) REFERENCES models (sha256), 
	CONSTRAINT fk_models_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE outboxes (
	folder VARCHAR(500) NOT NULL, 
	"offset" INTEGER NOT NULL, 
	lines INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_outboxes PRIMARY KEY (folder)
);
INSERT INTO "outboxes" VALUES('sampling/round-1',1201,5,'b39b8bac534bbc6cb3dcd2567a15f36276b4d75665aa1e35c5ce00f48f4f7b1c');
CREATE TABLE queue (
	id INTEGER NOT NULL, 
	structure_id VARCHAR(64) NOT NULL, 
	run_id VARCHAR(200) NOT NULL, 
	attempt INTEGER NOT NULL, 
	stage VARCHAR(20) NOT NULL, 
	"trigger" VARCHAR NOT NULL, 
	score DOUBLE NOT NULL, 
	round INTEGER, 
	state VARCHAR(20) NOT NULL, 
	reason VARCHAR, 
	duplicate_of VARCHAR(64), 
	max_force DOUBLE, 
	energy DOUBLE, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_queue PRIMARY KEY (id), 
	CONSTRAINT fk_queue_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT fk_queue_structure_id_structures FOREIGN KEY(structure_id) REFERENCES structures (id), 
	CONSTRAINT uq_queue_structure_id UNIQUE (structure_id)
);
INSERT INTO "queue" VALUES(1,'c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360','round-1',0,'sample','max_force',2.0,1,'selected',NULL,NULL,1.5,-1.0,'2026-11-25 12:56:24.851422');
INSERT INTO "queue" VALUES(2,'58320103762e8761262149f1faedf19888a30b6cd12f19763fce8ae1b4fc5229','round-1',1,'sample','max_force',1.0,1,'skipped','duplicate of c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360 at RMSD 0.000','c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360',1.5,-1.0,'2026-11-25 12:56:24.851422');
INSERT INTO "queue" VALUES(3,'e92345fc2fa1566ba6c84bd072e0b9cc0f790c88bf26d4c37ea8b01451f0e7fe','round-1',2,'sample','max_force',0.5,NULL,'queued',NULL,NULL,NULL,NULL,'2026-11-25 12:56:24.786077');
INSERT INTO "queue" VALUES(4,'92774b005498b1d6ca53fe7dd776ac96ca71ada956f1ef03006e855458ecf8fd','round-1',3,'sample','max_force',1.0,1,'skipped','exploded: max_force 31 is above 30',NULL,31.0,-1.0,'2026-11-25 12:56:24.851418');
INSERT INTO "queue" VALUES(5,'cde814d4efa797b7a2305914157630f6f62d70cd934f5cebba17ba468dc997b6','round-1',5,'sample','max_force',0.7,NULL,'queued',NULL,NULL,NULL,NULL,'2026-11-25 12:56:24.881885');
INSERT INTO "queue" VALUES(6,'e8eec1e9b39ef2a7c4dbb028f1a6966e50cc44be97a3a163d28c43d412e1d723','round-1',6,'sample','max_force',3.0,NULL,'queued',NULL,NULL,NULL,NULL,'2026-11-25 12:56:24.889376');
CREATE TABLE rounds (
	round INTEGER NOT NULL, 
	model_sha256 VARCHAR(64) NOT NULL, 
	metrics JSON NOT NULL, 
	finished_at DATETIME NOT NULL, 
	CONSTRAINT pk_rounds PRIMARY KEY (round), 
	CONSTRAINT fk_rounds_model_sha256_models FOREIGN KEY(model_sha256) REFERENCES models (sha256)
);
CREATE TABLE runs (
	id VARCHAR(200) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	folder VARCHAR NOT NULL, 
	round INTEGER, 
	seed INTEGER, 
	model_sha256 VARCHAR(64), 
	config JSON NOT NULL, 
	state JSON NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	started_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	CONSTRAINT pk_runs PRIMARY KEY (id), 
	CONSTRAINT fk_runs_model_sha256_models FOREIGN KEY(model_sha256) REFERENCES models (sha256)
);
INSERT INTO "runs" VALUES('round-1','sample','/elsewhere/campaign/sampling/round-1',NULL,NULL,NULL,'{}','{}','running','2026-11-25 12:56:24.749087',NULL);
CREATE TABLE structures (
	id VARCHAR(64) NOT NULL, 
	formula VARCHAR(200) NOT NULL, 
	n_atoms INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_structures PRIMARY KEY (id)
);
INSERT INTO "structures" VALUES('c915ff330d62342f682e2d217bad9278043eb85eb25937ce71a6c757382fa360','H2O',3,'2026-11-25 12:56:24.738907');
INSERT INTO "structures" VALUES('58320103762e8761262149f1faedf19888a30b6cd12f19763fce8ae1b4fc5229','H2O',3,'2026-11-25 12:56:24.772525');
INSERT INTO "structures" VALUES('e92345fc2fa1566ba6c84bd072e0b9cc0f790c88bf26d4c37ea8b01451f0e7fe','H2O',3,'2026-11-25 12:56:24.784528');
INSERT INTO "structures" VALUES('92774b005498b1d6ca53fe7dd776ac96ca71ada956f1ef03006e855458ecf8fd','H2O',3,'2026-11-25 12:56:24.796354');
INSERT INTO "structures" VALUES('cde814d4efa797b7a2305914157630f6f62d70cd934f5cebba17ba468dc997b6','H2O',3,'2026-11-25 12:56:24.880498');
INSERT INTO "structures" VALUES('e8eec1e9b39ef2a7c4dbb028f1a6966e50cc44be97a3a163d28c43d412e1d723','H2O',3,'2026-11-25 12:56:24.888252');
CREATE TABLE training_labels (
	model_sha256 VARCHAR(64) NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_training_labels PRIMARY KEY (model_sha256, job_id), 
	CONSTRAINT fk_training_labels_job_id_labels FOREIGN KEY(job_id) REFERENCES labels (job_id), 
	CONSTRAINT fk_training_labels_model_sha256_models FOREIGN KEY(model_sha256) REFERENCES models (sha256)
);
CREATE TABLE transitions (
	id INTEGER NOT NULL, 
	run_id VARCHAR(200) NOT NULL, 
	from_basin INTEGER NOT NULL, 
	to_basin INTEGER NOT NULL, 
	action VARCHAR(60) NOT NULL, 
	count INTEGER NOT NULL, 
	CONSTRAINT pk_transitions PRIMARY KEY (id), 
	CONSTRAINT fk_transitions_from_basin_basins FOREIGN KEY(from_basin) REFERENCES basins (id), 
	CONSTRAINT fk_transitions_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT fk_transitions_to_basin_basins FOREIGN KEY(to_basin) REFERENCES basins (id), 
	CONSTRAINT uq_transitions_run_id_from_basin_to_basin_action UNIQUE (run_id, from_basin, to_basin, action)
);
CREATE INDEX ix_structures_formula ON structures (formula);
CREATE INDEX ix_decisions_folder_verdict ON decisions (folder, verdict);
CREATE INDEX ix_decisions_structure_id ON decisions (structure_id);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_structure_id ON jobs (structure_id);
CREATE INDEX ix_labels_round ON labels (round);
CREATE INDEX ix_labels_structure_id ON labels (structure_id);
CREATE INDEX ix_queue_state_round ON queue (state, round);
COMMIT;
