BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.0.0.d');
CREATE TABLE studies (
	study_id INTEGER NOT NULL,
	study_name VARCHAR(512) NOT NULL,
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'bottle_seed0');
INSERT INTO "studies" VALUES(2,'bottle_seed0_fixed');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL,
	direction VARCHAR(8) NOT NULL,
	study_id INTEGER NOT NULL,
	objective INTEGER NOT NULL,
	PRIMARY KEY (study_direction_id),
	UNIQUE (study_id, objective),
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MAXIMIZE',1,1);
INSERT INTO "study_directions" VALUES(3,'MINIMIZE',2,0);
INSERT INTO "study_directions" VALUES(4,'MAXIMIZE',2,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL,
	study_id INTEGER,
	"key" VARCHAR(512),
	value_json TEXT,
	PRIMARY KEY (study_system_attribute_id),
	UNIQUE (study_id, "key"),
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL,
	study_id INTEGER,
	"key" VARCHAR(512),
	value_json TEXT,
	PRIMARY KEY (study_user_attribute_id),
	UNIQUE (study_id, "key"),
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL,
	trial_id INTEGER NOT NULL,
	heartbeat DATETIME NOT NULL,
	PRIMARY KEY (trial_heartbeat_id),
	UNIQUE (trial_id),
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL,
	trial_id INTEGER NOT NULL,
	step INTEGER NOT NULL,
	intermediate_value FLOAT,
	intermediate_value_type VARCHAR(7) NOT NULL,
	PRIMARY KEY (trial_intermediate_value_id),
	UNIQUE (trial_id, step),
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL,
	trial_id INTEGER,
	param_name VARCHAR(512),
	param_value FLOAT,
	distribution_json TEXT,
	PRIMARY KEY (param_id),
	UNIQUE (trial_id, param_name),
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'supernet_name',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"]}}');
INSERT INTO "trial_params" VALUES(2,1,'stage_0_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(3,1,'stage_0_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(4,1,'stage_0_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(5,1,'stage_0_patch_size',9.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(6,1,'stage_1_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(7,1,'stage_1_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(8,1,'stage_1_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(9,1,'stage_1_patch_size',13.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(10,1,'stage_2_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(11,1,'stage_2_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(12,1,'stage_2_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(13,1,'stage_2_patch_size',13.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(14,1,'stage_3_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(15,1,'stage_3_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(16,1,'stage_3_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(17,1,'stage_3_patch_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(18,1,'stage_4_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(19,1,'stage_4_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(20,1,'stage_4_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(21,1,'stage_4_patch_size',8.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(22,2,'supernet_name',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"]}}');
INSERT INTO "trial_params" VALUES(23,2,'stage_0_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(24,2,'stage_0_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(25,2,'stage_0_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(26,2,'stage_0_patch_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(27,2,'stage_1_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(28,2,'stage_1_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(29,2,'stage_1_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(30,2,'stage_1_patch_size',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(31,2,'stage_2_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(32,2,'stage_2_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(33,2,'stage_2_block',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(34,2,'stage_2_patch_size',12.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(35,2,'stage_3_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(36,2,'stage_3_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(37,2,'stage_3_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(38,2,'stage_3_patch_size',12.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(39,2,'stage_4_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(40,2,'stage_4_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(41,2,'stage_4_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(42,2,'stage_4_patch_size',16.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(43,3,'supernet_name',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"]}}');
INSERT INTO "trial_params" VALUES(44,3,'stage_0_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(45,3,'stage_0_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(46,3,'stage_0_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(47,3,'stage_0_patch_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(48,3,'stage_1_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(49,3,'stage_1_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(50,3,'stage_1_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(51,3,'stage_1_patch_size',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(52,3,'stage_2_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(53,3,'stage_2_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(54,3,'stage_2_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(55,3,'stage_2_patch_size',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(56,3,'stage_3_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(57,3,'stage_3_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(58,3,'stage_3_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(59,3,'stage_3_patch_size',12.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(60,3,'stage_4_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(61,3,'stage_4_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(62,3,'stage_4_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(63,3,'stage_4_patch_size',14.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(64,4,'supernet_name',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"]}}');
INSERT INTO "trial_params" VALUES(65,4,'stage_0_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(66,4,'stage_0_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(67,4,'stage_0_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(68,4,'stage_0_patch_size',6.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(69,4,'stage_1_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(70,4,'stage_1_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(71,4,'stage_1_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(72,4,'stage_1_patch_size',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(73,4,'stage_2_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(74,4,'stage_2_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(75,4,'stage_2_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(76,4,'stage_2_patch_size',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(77,4,'stage_3_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(78,4,'stage_3_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(79,4,'stage_3_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(80,4,'stage_3_patch_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(81,4,'stage_4_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(82,4,'stage_4_expand_ratio',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(83,4,'stage_4_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(84,4,'stage_4_patch_size',8.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(85,5,'supernet_name',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"]}}');
INSERT INTO "trial_params" VALUES(86,5,'stage_0_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(87,5,'stage_0_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(88,5,'stage_0_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(89,5,'stage_0_patch_size',14.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(90,5,'stage_1_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(91,5,'stage_1_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(92,5,'stage_1_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(93,5,'stage_1_patch_size',12.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(94,5,'stage_2_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(95,5,'stage_2_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(96,5,'stage_2_block',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(97,5,'stage_2_patch_size',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(98,5,'stage_3_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(99,5,'stage_3_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(100,5,'stage_3_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(101,5,'stage_3_patch_size',8.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(102,5,'stage_4_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(103,5,'stage_4_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(104,5,'stage_4_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(105,5,'stage_4_patch_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(106,6,'supernet_name',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"]}}');
INSERT INTO "trial_params" VALUES(107,6,'stage_0_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(108,6,'stage_0_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(109,6,'stage_0_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(110,6,'stage_0_patch_size',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(111,6,'stage_1_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(112,6,'stage_1_expand_ratio',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(113,6,'stage_1_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(114,6,'stage_1_patch_size',14.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(115,6,'stage_2_kernel_size',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(116,6,'stage_2_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(117,6,'stage_2_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(118,6,'stage_2_patch_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(119,6,'stage_3_kernel_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(120,6,'stage_3_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(121,6,'stage_3_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(122,6,'stage_3_patch_size',13.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(123,6,'stage_4_kernel_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 2, "low": 3, "high": 7}}');
INSERT INTO "trial_params" VALUES(124,6,'stage_4_expand_ratio',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 4, 6]}}');
INSERT INTO "trial_params" VALUES(125,6,'stage_4_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(126,6,'stage_4_patch_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(127,7,'stage_0_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(128,7,'stage_0_patch_size',11.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(129,7,'stage_1_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(130,7,'stage_1_patch_size',9.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(131,7,'stage_2_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(132,7,'stage_2_patch_size',14.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(133,7,'stage_3_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(134,7,'stage_3_patch_size',13.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(135,7,'stage_4_block',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(136,7,'stage_4_patch_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(137,8,'stage_0_block',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(138,8,'stage_0_patch_size',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(139,8,'stage_1_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(140,8,'stage_1_patch_size',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(141,8,'stage_2_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(142,8,'stage_2_patch_size',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(143,8,'stage_3_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(144,8,'stage_3_patch_size',2.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(145,8,'stage_4_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(146,8,'stage_4_patch_size',4.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(147,9,'stage_0_block',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 1, 2, 3, 4]}}');
INSERT INTO "trial_params" VALUES(148,9,'stage_0_patch_size',6.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(149,9,'stage_1_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 5, 6, 7, 8]}}');
INSERT INTO "trial_params" VALUES(150,9,'stage_1_patch_size',8.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(151,9,'stage_2_block',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 9, 10, 11, 12]}}');
INSERT INTO "trial_params" VALUES(152,9,'stage_2_patch_size',2.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(153,9,'stage_3_block',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 13, 14, 15, 16]}}');
INSERT INTO "trial_params" VALUES(154,9,'stage_3_patch_size',12.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
INSERT INTO "trial_params" VALUES(155,9,'stage_4_block',4.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [null, 17, 18, 19, 20]}}');
INSERT INTO "trial_params" VALUES(156,9,'stage_4_patch_size',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 16}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL,
	trial_id INTEGER,
	"key" VARCHAR(512),
	value_json TEXT,
	PRIMARY KEY (trial_system_attribute_id),
	UNIQUE (trial_id, "key"),
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL,
	trial_id INTEGER,
	"key" VARCHAR(512),
	value_json TEXT,
	PRIMARY KEY (trial_user_attribute_id),
	UNIQUE (trial_id, "key"),
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'val_wAP','0.53');
INSERT INTO "trial_user_attributes" VALUES(2,1,'test_wAP','0.3125');
INSERT INTO "trial_user_attributes" VALUES(3,2,'val_wAP','0.36');
INSERT INTO "trial_user_attributes" VALUES(4,2,'test_wAP','0.203125');
INSERT INTO "trial_user_attributes" VALUES(5,3,'val_wAP','0.24');
INSERT INTO "trial_user_attributes" VALUES(6,3,'test_wAP','0.265625');
INSERT INTO "trial_user_attributes" VALUES(7,5,'val_wAP','0.37');
INSERT INTO "trial_user_attributes" VALUES(8,5,'test_wAP','0.3125');
INSERT INTO "trial_user_attributes" VALUES(9,6,'val_wAP','0.38');
INSERT INTO "trial_user_attributes" VALUES(10,6,'test_wAP','0.3125');
INSERT INTO "trial_user_attributes" VALUES(11,7,'val_wAP','0.49');
INSERT INTO "trial_user_attributes" VALUES(12,7,'test_wAP','0.296875');
INSERT INTO "trial_user_attributes" VALUES(13,8,'val_wAP','0.41');
INSERT INTO "trial_user_attributes" VALUES(14,8,'test_wAP','0.28125');
INSERT INTO "trial_user_attributes" VALUES(15,9,'val_wAP','0.45');
INSERT INTO "trial_user_attributes" VALUES(16,9,'test_wAP','0.3125');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL,
	trial_id INTEGER NOT NULL,
	objective INTEGER NOT NULL,
	value FLOAT,
	value_type VARCHAR(7) NOT NULL,
	PRIMARY KEY (trial_value_id),
	UNIQUE (trial_id, objective),
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,424000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,0.53,'FINITE');
INSERT INTO "trial_values" VALUES(3,2,0,288000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,1,0.36,'FINITE');
INSERT INTO "trial_values" VALUES(5,3,0,192000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(6,3,1,0.24,'FINITE');
INSERT INTO "trial_values" VALUES(7,5,0,296000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(8,5,1,0.37,'FINITE');
INSERT INTO "trial_values" VALUES(9,6,0,304000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(10,6,1,0.38,'FINITE');
INSERT INTO "trial_values" VALUES(11,7,0,392000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(12,7,1,0.49,'FINITE');
INSERT INTO "trial_values" VALUES(13,8,0,328000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(14,8,1,0.41,'FINITE');
INSERT INTO "trial_values" VALUES(15,9,0,360000000.0,'FINITE');
INSERT INTO "trial_values" VALUES(16,9,1,0.45,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL,
	number INTEGER,
	study_id INTEGER,
	state VARCHAR(8) NOT NULL,
	datetime_start DATETIME,
	datetime_complete DATETIME,
	PRIMARY KEY (trial_id),
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-24 03:50:30.568139','2026-11-24 03:50:30.692816');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-24 03:50:30.702339','2026-11-24 03:50:30.807107');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-24 03:50:30.812826','2026-11-24 03:50:30.910950');
INSERT INTO "trials" VALUES(4,3,1,'FAIL','2026-11-24 03:50:30.916769','2026-11-24 03:50:31.003292');
INSERT INTO "trials" VALUES(5,4,1,'COMPLETE','2026-11-24 03:50:31.009470','2026-11-24 03:50:31.099461');
INSERT INTO "trials" VALUES(6,5,1,'COMPLETE','2026-11-24 03:50:31.105135','2026-11-24 03:50:31.201158');
INSERT INTO "trials" VALUES(7,0,2,'COMPLETE','2026-11-24 03:50:31.233635','2026-11-24 03:50:31.285792');
INSERT INTO "trials" VALUES(8,1,2,'COMPLETE','2026-11-24 03:50:31.293240','2026-11-24 03:50:31.344195');
INSERT INTO "trials" VALUES(9,2,2,'COMPLETE','2026-11-24 03:50:31.349671','2026-11-24 03:50:31.398554');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL,
	schema_version INTEGER,
	library_version VARCHAR(256),
	PRIMARY KEY (version_info_id),
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'3.1.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
COMMIT;
